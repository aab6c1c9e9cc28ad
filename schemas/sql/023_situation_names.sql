-- Whose decisions lie in each cell, and of which symbols: a question by agent or symbol need not look into the others.

-- Until this is done no decision gets a place: each is counted once, by the new function or below.
LOCK TABLE llm_situation_index IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE llm_situation_cells ADD COLUMN agents BIGINT NOT NULL DEFAULT 0, ADD COLUMN symbols BIGINT NOT NULL DEFAULT 0;

COMMENT ON COLUMN llm_situation_cells.agents IS
    'for the agent of each place there the bit that llm_bit_of_name gives, which may be that of several';
COMMENT ON COLUMN llm_situation_cells.symbols IS 'the same for the symbols';

-- That of a hash that every client can reckon.
CREATE FUNCTION llm_bit_of_name(name TEXT) RETURNS BIGINT LANGUAGE sql STABLE PARALLEL SAFE
RETURN 1::bigint << (get_byte(sha256(convert_to(name, 'UTF8')), 0) & 63);

CREATE OR REPLACE FUNCTION llm_situation_cells_widen() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO llm_situation_cells AS known (cell, present, agents, symbols, low, high, changed)
    SELECT cell, bit_or(present), bit_or(agents), bit_or(symbols),
           array_agg(low ORDER BY axis), array_agg(high ORDER BY axis), (
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
    ) bounds JOIN (
        SELECT cell, bit_or(llm_bit_of_name(agent_name)) AS agents, bit_or(llm_bit_of_name(symbol)) AS symbols
        FROM entered WHERE cell IS NOT NULL GROUP BY cell
    ) names USING (cell)
    GROUP BY cell
    ON CONFLICT (cell) DO UPDATE
    SET present = known.present | EXCLUDED.present,
        agents = known.agents | EXCLUDED.agents,
        symbols = known.symbols | EXCLUDED.symbols,
        low = ARRAY(SELECT LEAST(a, b) FROM unnest(known.low, EXCLUDED.low) AS bound (a, b)),
        high = ARRAY(SELECT GREATEST(a, b) FROM unnest(known.high, EXCLUDED.high) AS bound (a, b)),
        changed = EXCLUDED.changed
    WHERE EXCLUDED.present & ~known.present <> 0
    OR EXCLUDED.agents & ~known.agents <> 0 OR EXCLUDED.symbols & ~known.symbols <> 0
    OR EXISTS (
        SELECT FROM unnest(known.low, EXCLUDED.low, known.high, EXCLUDED.high) AS bound (a, b, c, d)
        WHERE b < a OR d > c
    );
    RETURN NULL;
END
$$;

UPDATE llm_situation_cells cells
SET agents = names.agents, symbols = names.symbols
FROM (
    SELECT cell, bit_or(llm_bit_of_name(agent_name)) AS agents, bit_or(llm_bit_of_name(symbol)) AS symbols
    FROM llm_situation_index WHERE cell IS NOT NULL GROUP BY cell
) names
WHERE names.cell = cells.cell;

ALTER TABLE llm_situation_cells ALTER COLUMN agents DROP DEFAULT, ALTER COLUMN symbols DROP DEFAULT;
