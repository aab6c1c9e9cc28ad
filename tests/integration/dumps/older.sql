-- A database of an older shape: other names for two columns, other words for outcomes, types that differ,
-- no embeddings, no sessions, a column of its own, one index.

CREATE TYPE agent_kind AS ENUM ('signal', 'risk_approval', 'exit');

CREATE TABLE llm_decisions (
    id UUID PRIMARY KEY,
    agent_name VARCHAR(255) NOT NULL,
    decision_type agent_kind NOT NULL,
    symbol TEXT NOT NULL,
    prompt TEXT NOT NULL,
    response TEXT NOT NULL,
    model VARCHAR(64) NOT NULL,
    tokens_used BIGINT NOT NULL DEFAULT 0,
    latency_ms DOUBLE PRECISION,
    outcome TEXT,
    outcome_pnl NUMERIC,
    metadata JSON,
    confidence DOUBLE PRECISION,
    created_at TIMESTAMPTZ(6) NOT NULL,
    strategy TEXT DEFAULT 'core'
);

CREATE INDEX decisions_by_symbol ON llm_decisions (symbol);
CREATE VIEW prompts AS SELECT id, prompt FROM llm_decisions;

INSERT INTO llm_decisions (id, agent_name, decision_type, symbol, prompt, response, model, tokens_used, latency_ms, outcome, outcome_pnl, metadata, confidence, created_at, strategy) VALUES
('d2a3ea99-f35f-447f-85e3-52d3213438ec', 'risk-officer', 'risk_approval', '7203.T', 'Market notes:
- 7203.T gapped up
- RSI 54.0
What''s your call? ''Hold'' is an answer.', '{"action": "HOLD", "confidence": 0.57, "reason": "trend’s intact"}', 'llama-3.1-70b', 780, 2299, NULL, NULL, '{"rsi": 54.0, "macd": {"line": 0.568}, "note": "l''été"}', NULL, '2025-03-03T09:30:00.255959+00:00', 'swing'),
('952bd359-ea7e-4515-bc52-00f85ea3770a', 'risk-officer', 'signal', 'AAPL', '行情：AAPL，RSI 69.0。买入还是卖出？ 📈', 'SELL. I''d size it small.', 'gpt-4o-2024-08-06', 0, 3886, 'profitable', NULL, NULL, NULL, '2025-03-03T10:07:00.648966+00:00', 'core'),
('c173fc56-81af-4c34-a257-2445b09c5307', 'mean-reversion', 'risk_approval', 'SAP.DE', '行情：SAP.DE，RSI 37.1。买入还是卖出？ 📈', 'SELL. I''d size it small.', 'llama-3.1-70b', 2800, NULL, 'loss', '-3.87', NULL, NULL, '2025-03-03T10:44:00.488838+00:00', 'swing'),
('b9d4f2ac-484d-47d9-af10-625efb44d2db', 'Händler-Ost', 'signal', 'NVDA', 'Market notes:
- NVDA gapped up
- RSI 52.8
What''s your call? ''Hold'' is an answer.', '{"action": "SELL", "confidence": 0.9}', 'gpt-4o-2024-08-06', 2197, 3182, NULL, NULL, NULL, 0.9, '2025-03-03T11:21:00.081884+00:00', 'core'),
('1d785079-8432-412e-891a-9421b4088e0f', 'mean-reversion', 'exit', 'SAP.DE', '行情：SAP.DE，RSI 59.5。买入还是卖出？ 📈', 'SELL — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 0, NULL, 'loss', '1325.73756940', NULL, 0.33, '2025-03-03T11:58:00.980749+00:00', 'swing'),
('c0d3aebe-32f1-4d39-910a-3da7ff6266f5', 'momentum', 'risk_approval', 'BRK.B', 'You are the risk officer. Approve BRK.B at 2 % of equity? RSI 78.1', '{"action": "HOLD", "confidence": 0.88}', 'llama-3.1-70b', 0, 5970, NULL, NULL, '{"rsi": 78.1, "macd": {"line": -0.643}, "note": "l''été"}', 0.88, '2025-03-03T12:35:00.318818+00:00', 'core'),
('a33e7486-8c5e-425b-8d8d-21015c9ae4bb', 'mean-reversion', 'risk_approval', 'NVDA', 'RSI(14) is 66.5, MACD crossed upwards. Position: none. Buy, sell or hold NVDA?', 'BUY — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 2542, NULL, 'loss', '8.28', '{"rsi": 66.5, "trend": "側"}', 0.78, '2025-03-03T13:12:00.786978+00:00', NULL),
('cf7b398d-c715-4161-9cc3-7f685cf5002b', 'momentum', 'risk_approval', 'SAP.DE', 'Öffnung in Xetra, SAP.DE: RSI 27.5 – kaufen?', '{"action": "BUY", "confidence": 0.87, "reason": "trend’s intact"}', 'gpt-4o-2024-08-06', 0, 6342, NULL, NULL, '{"rsi": 27.5, "macd": {"line": 1.14}, "note": "l''été"}', 0.87, '2025-03-03T13:49:00.630178+00:00', 'core'),
('34a4ddee-adcc-42be-b0ca-52d1a1a26656', 'risk-officer', 'signal', 'AAPL', 'You are the risk officer. Approve AAPL at 2 % of equity? RSI 29.9', 'HOLD — \no backslash is safe	in text', 'llama-3.1-70b', 437, 6967, 'profitable', '-4.21', '{"rsi": 29.9, "macd": {"line": -1.632}, "note": "l''été"}', NULL, '2025-03-03T14:26:00.498132+00:00', 'core'),
('920b8738-fa0a-46ec-afb2-cb55e2323b16', '量化一号', 'exit', 'ETH', 'Market notes:
- ETH gapped up
- RSI 33.2
What''s your call? ''Hold'' is an answer.', '{"action": "HOLD", "confidence": 0.47}', 'claude-3-5-sonnet-20241022', 0, 3384, 'breakeven', '7.10', NULL, NULL, '2025-03-03T15:03:00.385431+00:00', 'swing'),
('d5d64b8f-7acb-47de-8e76-8752f1373473', 'Händler-Ost', 'signal', 'ETH', 'RSI(14) is 54.0, MACD crossed upwards. Position: none. Buy, sell or hold ETH?', 'SELL — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 0, NULL, 'profitable', '1.95', '{"rsi": 54.0, "macd": {"line": -0.127}, "note": "l''été"}', NULL, '2025-03-03T15:40:00.391021+00:00', NULL),
('27008994-c63f-4e1a-8c40-ed700596edee', 'risk-officer', 'risk_approval', 'AAPL', 'Öffnung in Xetra, AAPL: RSI 26.2 – kaufen?', 'BUY. I''d size it small.', 'claude-3-5-sonnet-20241022', 0, NULL, 'loss', '0.30', '{"rsi": 26.2, "macd": {"line": 0.913}, "note": "l''été"}', 0.67, '2025-03-03T16:17:00.712846+00:00', 'swing'),
('94878aaa-61e6-4c87-b0be-5c47bf4c5559', 'momentum', 'exit', 'ETH', 'Market notes:
- ETH gapped up
- RSI 59.7
What''s your call? ''Hold'' is an answer.', '{"action": "SELL", "confidence": 0.55}', 'gpt-4o-2024-08-06', 0, 4327, NULL, NULL, '{"rsi": 59.7, "trend": "down"}', 0.55, '2025-03-03T16:54:00.530646+00:00', NULL),
('1b1f04af-671e-4881-b180-caaf1397e60f', 'Händler-Ost', 'risk_approval', '7203.T', 'Öffnung in Xetra, 7203.T: RSI 74.5 – kaufen?', 'SELL — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 312, 5262, 'profitable', '12.87', NULL, 0.37, '2025-03-03T17:31:00.140326+00:00', 'core'),
('32bd4061-1b18-44d0-9911-be0e0b529f79', 'risk-officer', 'risk_approval', 'BTC', 'RSI(14) is 39.1, MACD crossed upwards. Position: none. Buy, sell or hold BTC?', '{"action": "SELL", "confidence": 0.88, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', 0, NULL, 'Pending', NULL, NULL, NULL, '2025-03-03T18:08:00.656764+00:00', 'core'),
('e406d404-1af8-45c7-a37f-d5343f2697aa', 'risk-officer', 'exit', 'AAPL', 'RSI(14) is 22.5, MACD crossed upwards. Position: none. Buy, sell or hold AAPL?', '{"action": "HOLD", "confidence": 0.71, "reason": "trend’s intact"}', 'llama-3.1-70b', 1991, 1195, 'profitable', '5.91', '{"rsi": 22.5, "trend": "up"}', 0.71, '2025-03-03T18:45:00.024635+00:00', 'swing'),
('22170d3a-86b0-4911-b4ef-fa4c970896f6', 'mean-reversion', 'risk_approval', 'BRK.B', 'Öffnung in Xetra, BRK.B: RSI 51.3 – kaufen?', '{"action": "SELL", "confidence": 0.72}', 'claude-3-5-sonnet-20241022', 0, 3187, 'breakeven', '4.57', '{"rsi": 51.3, "trend": "側"}', NULL, '2025-03-03T19:22:00.530562+00:00', 'swing'),
('f558f7f5-69c3-4646-b6cb-529da225989f', 'risk-officer', 'signal', 'ETH', 'Market notes:
- ETH gapped up
- RSI 56.7
What''s your call? ''Hold'' is an answer.', '{"action": "BUY", "confidence": 0.6}', 'llama-3.1-70b', 0, 392, 'Pending', NULL, '{"rsi": 56.7, "trend": "up"}', NULL, '2025-03-03T19:59:00.339927+00:00', NULL),
('f15d033a-2181-4504-ad6c-e4582341eee5', 'mean-reversion', 'signal', 'AAPL', 'You are the risk officer. Approve AAPL at 2 % of equity? RSI 29.7', '{"action": "SELL", "confidence": 0.93, "reason": "trend’s intact"}', 'gpt-4o-2024-08-06', 0, NULL, 'loss', '748.30531871', NULL, 0.93, '2025-03-03T20:36:00.978684+00:00', 'core'),
('a77db2b9-e8dd-4c37-8985-1627fc06c6a1', 'mean-reversion', 'exit', 'ETH', 'RSI(14) is 22.4, MACD crossed upwards. Position: none. Buy, sell or hold ETH?', 'BUY — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 1162, NULL, 'profitable', NULL, NULL, 0.69, '2025-03-03T21:13:00.202697+00:00', 'core'),
('fe834f7e-767f-414f-a151-d797f85ff846', 'momentum', 'signal', '7203.T', '行情：7203.T，RSI 32.0。买入还是卖出？ 📈', '{"action": "SELL", "confidence": 0.6, "reason": "trend’s intact"}', 'llama-3.1-70b', 635, NULL, 'loss', NULL, '{"rsi": 32.0, "macd": {"line": -1.011}, "note": "l''été"}', 0.6, '2025-03-03T21:50:00.351318+00:00', 'core'),
('ac7a903b-2fcd-4159-9d5e-0a9e8955f56f', 'momentum', 'exit', 'SAP.DE', 'You are the risk officer. Approve SAP.DE at 2 % of equity? RSI 31.8', 'BUY — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 2747, 2503, 'breakeven', '-237.82740305', '{"rsi": 31.8, "macd": {"line": 0.946}, "note": "l''été"}', 0.74, '2025-03-03T22:27:00.965490+00:00', 'swing'),
('989dbcc9-eed1-4a92-831a-4acf13e4ee0a', 'Händler-Ost', 'signal', '7203.T', 'Market notes:
- 7203.T gapped up
- RSI 23.5
What''s your call? ''Hold'' is an answer.', '{"action": "BUY", "confidence": 0.85}', 'gpt-4o-2024-08-06', 931, NULL, 'it''s open', NULL, NULL, 0.85, '2025-03-03T23:04:00.336018+00:00', 'swing'),
('67b3179b-fb3a-463c-996c-0920e95c82dd', 'Händler-Ost', 'risk_approval', 'ETH', 'RSI(14) is 46.5, MACD crossed upwards. Position: none. Buy, sell or hold ETH?', '{"action": "BUY", "confidence": 0.97}', 'llama-3.1-70b', 1306, NULL, 'Pending', NULL, '{"rsi": 46.5, "macd": {"line": -0.407}, "note": "l''été"}', 0.97, '2025-03-03T23:41:00.986985+00:00', NULL),
('8c6371ea-a5f8-417c-b9f9-d117ff3286af', 'mean-reversion', 'signal', 'NVDA', 'Market notes:
- NVDA gapped up
- RSI 22.2
What''s your call? ''Hold'' is an answer.', '{"action": "HOLD", "confidence": 0.61, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', 0, NULL, 'breakeven', NULL, '{"rsi": 22.2, "macd": {"line": -1.538}, "note": "l''été"}', 0.61, '2025-03-04T00:18:00.101394+00:00', 'core'),
('01f7be9d-808d-4591-8481-d509a2aa0e26', '量化一号', 'exit', 'SAP.DE', 'You are the risk officer. Approve SAP.DE at 2 % of equity? RSI 65.0', 'SELL. I''d size it small.', 'llama-3.1-70b', 2000, 3178, 'profitable', '-0.07', NULL, NULL, '2025-03-04T00:55:00.590595+00:00', NULL),
('c1cd2b47-8ec1-4582-9422-c5c05f32a0f7', 'Händler-Ost', 'risk_approval', 'ETH', '行情：ETH，RSI 68.2。买入还是卖出？ 📈', '{"action": "SELL", "confidence": 0.81, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', 0, 1862, NULL, NULL, NULL, 0.81, '2025-03-04T01:32:00.689722+00:00', 'swing'),
('8b3cd552-35e0-44f0-8e37-d3d9a19b033d', 'risk-officer', 'signal', 'SAP.DE', 'You are the risk officer. Approve SAP.DE at 2 % of equity? RSI 27.4', 'BUY — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 331, 7150, 'profitable', NULL, NULL, NULL, '2025-03-04T02:09:00.039242+00:00', NULL),
('3318b8dd-b5a4-4d4a-80bd-d66f0c73be77', 'Händler-Ost', 'exit', 'ETH', 'Market notes:
- ETH gapped up
- RSI 26.7
What''s your call? ''Hold'' is an answer.', '{"action": "HOLD", "confidence": 0.56}', 'llama-3.1-70b', 0, 949, NULL, NULL, '{"rsi": 26.7, "macd": {"line": -1.055}, "note": "l''été"}', NULL, '2025-03-04T02:46:00.598733+00:00', 'core'),
('5ecff908-82a3-4b22-8253-766961fb9ab9', 'Händler-Ost', 'signal', 'SAP.DE', '行情：SAP.DE，RSI 74.9。买入还是卖出？ 📈', 'BUY. I''d size it small.', 'claude-3-5-sonnet-20241022', 2879, 2707, 'loss', '-140.55275226', NULL, 0.43, '2025-03-04T03:23:00.210477+00:00', NULL),
('4164a947-37f1-4a2d-9d94-0e7cc28ec357', 'mean-reversion', 'exit', 'BRK.B', 'RSI(14) is 76.0, MACD crossed upwards. Position: none. Buy, sell or hold BRK.B?', 'SELL. I''d size it small.', 'gpt-4o-2024-08-06', 0, 940, 'loss', NULL, '{"rsi": 76.0, "trend": "down"}', 0.38, '2025-03-04T04:00:00.911203+00:00', 'core'),
('a165ed52-6b3d-4c3c-9fc0-34364927b9f0', 'momentum', 'risk_approval', 'BTC', 'Öffnung in Xetra, BTC: RSI 57.6 – kaufen?', 'HOLD — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 389, 1578, 'it''s open', NULL, '{"rsi": 57.6, "trend": "down"}', 0.89, '2025-03-04T04:37:00.175607+00:00', NULL),
('0ebad255-c3ad-4708-bdaa-3aad6c94b4b0', 'Händler-Ost', 'risk_approval', 'ETH', 'You are the risk officer. Approve ETH at 2 % of equity? RSI 76.4', 'SELL. I''d size it small.', 'gpt-4o-2024-08-06', 242, NULL, 'it''s open', NULL, NULL, 0.59, '2025-03-04T05:14:00.194782+00:00', 'swing'),
('b62dbf7f-fbc4-4bb5-a8d3-9cb5f78e698b', 'risk-officer', 'signal', 'BRK.B', 'RSI(14) is 63.3, MACD crossed upwards. Position: none. Buy, sell or hold BRK.B?', '{"action": "BUY", "confidence": 0.33}', 'gpt-4o-2024-08-06', 479, 5258, 'breakeven', '1391.98797099', '{"rsi": 63.3, "macd": {"line": 0.119}, "note": "l''été"}', 0.33, '2025-03-04T05:51:00.838315+00:00', NULL),
('ed4b4802-e812-4802-908e-8dacc7f53d5c', 'mean-reversion', 'signal', 'NVDA', 'RSI(14) is 70.8, MACD crossed upwards. Position: none. Buy, sell or hold NVDA?', 'HOLD — \no backslash is safe	in text', 'llama-3.1-70b', 0, NULL, 'Pending', NULL, NULL, 0.46, '2025-03-04T06:28:00.857225+00:00', NULL),
('553862e4-f038-4e14-81d4-288d3a526815', '量化一号', 'exit', 'ETH', 'Market notes:
- ETH gapped up
- RSI 54.9
What''s your call? ''Hold'' is an answer.', 'HOLD. I''d size it small.', 'gpt-4o-2024-08-06', 0, 4958, NULL, NULL, '{"rsi": 54.9, "macd": {"line": -1.93}, "note": "l''été"}', 0.44, '2025-03-04T07:05:00.602472+00:00', NULL);
