-- What is a large difference, indicator by indicator: learnt from the contexts of decisions made until then, by one
-- daemon at a time, in the background. The record as it was at a time is compared by the scales of that time.
CREATE TABLE llm_scales (
    learnt_at TIMESTAMPTZ PRIMARY KEY,
    decisions INTEGER NOT NULL,
    scales    JSONB NOT NULL
);

COMMENT ON COLUMN llm_scales.decisions IS 'how many were looked at, the latest until then';
COMMENT ON COLUMN llm_scales.scales IS 'by the path of the indicator: median and spread of its numbers';
