-- How far the record was pruned: decisions older than the horizon are gone, or about to go, and none is stored there
-- any more. One row, which only moves forward, and always before the rows go. NULL: nothing was ever pruned.

CREATE TABLE tracker_retention (
    single  BOOLEAN PRIMARY KEY DEFAULT true CHECK (single),
    horizon TIMESTAMPTZ
);

INSERT INTO tracker_retention DEFAULT VALUES;
