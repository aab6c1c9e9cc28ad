-- How far the places in each cell of the index of situations reach, axis by axis: a question need not look into a cell
-- that ends too far from it.
CREATE TABLE llm_situation_cells (
    cell    INTEGER PRIMARY KEY,
    present BIGINT NOT NULL,
    low     REAL[] NOT NULL,
    high    REAL[] NOT NULL,
    changed BIGINT NOT NULL
);

COMMENT ON COLUMN llm_situation_cells.present IS 'a bit for each axis: whether any place has it';
COMMENT ON COLUMN llm_situation_cells.low IS 'the least coordinate on each axis; -Infinity where a place lacks the axis';
COMMENT ON COLUMN llm_situation_cells.changed IS
    'greater than that of every change before, and a time in microseconds at least: a server that has lost the last of '
    'them gives none of their numbers away again';

CREATE INDEX llm_situation_cells_changed ON llm_situation_cells (changed);

-- A trigger, and no statement of the daemon's: a daemon from before this migration may give decisions their places, too.
-- Whoever does holds the lock of the index, so there is one change at a time.
CREATE FUNCTION llm_situation_cells_widen() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO llm_situation_cells AS known (cell, present, low, high, changed)
    SELECT cell, bit_or(present), array_agg(low ORDER BY axis), array_agg(high ORDER BY axis), (
        SELECT GREATEST(max(changed) + 1, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint)
        FROM llm_situation_cells
    )
    FROM (
        SELECT cell, axis, bit_or(present) AS present,
               min(CASE WHEN present >> (axis - 1) & 1 = 1 THEN coordinate ELSE '-Infinity' END) AS low,
               max(CASE WHEN present >> (axis - 1) & 1 = 1 THEN coordinate ELSE 'Infinity' END) AS high
        FROM (
            SELECT cell, present, axis::int, coordinate
            FROM entered CROSS JOIN unnest(situation::real[]) WITH ORDINALITY AS element (coordinate, axis)
            WHERE cell IS NOT NULL
        ) coordinates
        GROUP BY cell, axis
    ) bounds
    GROUP BY cell
    ON CONFLICT (cell) DO UPDATE
    SET present = known.present | EXCLUDED.present,
        low = ARRAY(SELECT LEAST(a, b) FROM unnest(known.low, EXCLUDED.low) AS bound (a, b)),
        high = ARRAY(SELECT GREATEST(a, b) FROM unnest(known.high, EXCLUDED.high) AS bound (a, b)),
        changed = EXCLUDED.changed
    WHERE EXCLUDED.present & ~known.present <> 0 OR EXISTS (
        SELECT FROM unnest(known.low, EXCLUDED.low, known.high, EXCLUDED.high) AS bound (a, b, c, d)
        WHERE b < a OR d > c
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER llm_situation_index_insert AFTER INSERT ON llm_situation_index
REFERENCING NEW TABLE AS entered FOR EACH STATEMENT EXECUTE FUNCTION llm_situation_cells_widen();

CREATE TRIGGER llm_situation_index_update AFTER UPDATE ON llm_situation_index
REFERENCING NEW TABLE AS entered FOR EACH STATEMENT EXECUTE FUNCTION llm_situation_cells_widen();

-- What has its place already, by the same function.
CREATE TEMPORARY TABLE placed (LIKE llm_situation_index) ON COMMIT DROP;

CREATE TRIGGER placed AFTER INSERT ON placed
REFERENCING NEW TABLE AS entered FOR EACH STATEMENT EXECUTE FUNCTION llm_situation_cells_widen();

INSERT INTO placed SELECT * FROM llm_situation_index;
