-- A database as the first shape of these tables had it: sessions, decisions, six indexes.

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE trading_sessions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    name VARCHAR(100),
    started_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE llm_decisions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id UUID REFERENCES trading_sessions(id),
    decision_type VARCHAR(50) NOT NULL,
    symbol VARCHAR(20) NOT NULL,
    prompt TEXT NOT NULL,
    prompt_embedding vector(3),
    response TEXT NOT NULL,
    model VARCHAR(100) NOT NULL,
    tokens_used INTEGER,
    latency_ms INTEGER,
    outcome VARCHAR(20),
    pnl DECIMAL(20, 8),
    context JSONB,
    agent_name VARCHAR(100) NOT NULL,
    confidence DECIMAL(5, 4),
    created_at TIMESTAMPTZ DEFAULT NOW()
);

CREATE INDEX idx_llm_decisions_session ON llm_decisions(session_id);
CREATE INDEX idx_llm_decisions_symbol ON llm_decisions(symbol);
CREATE INDEX idx_llm_decisions_type ON llm_decisions(decision_type);
CREATE INDEX idx_llm_decisions_outcome ON llm_decisions(outcome);
CREATE INDEX idx_llm_decisions_agent ON llm_decisions(agent_name);
CREATE INDEX idx_llm_decisions_created ON llm_decisions(created_at DESC);

INSERT INTO trading_sessions (id, name, started_at) VALUES
('3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'Frühschicht', '2025-03-03 09:00+00'),
('9dfb369b-ab13-4fae-a276-55daa05f1119', NULL, '2025-03-04 09:00+00'),
('6301bbfc-a0c5-454e-8ff9-bb510944fe0c', '夜盘', '2025-03-05 09:00+00');

INSERT INTO llm_decisions (id, session_id, decision_type, symbol, prompt, prompt_embedding, response, model, tokens_used, latency_ms, outcome, pnl, context, agent_name, confidence, created_at) VALUES
('5cbd0ba3-a1a6-4cde-ba12-4c647e02ff05', NULL, 'risk_approval', 'BRK.B', 'Öffnung in Xetra, BRK.B: RSI 21.0 – kaufen?', '[0.545006,0.108902,0.165414]', 'SELL. I''d size it small.', 'llama-3.1-70b', 2319, 7518, NULL, NULL, '{"rsi": 21.0, "trend": "up"}', 'risk-officer', 0.63, '2025-03-03T09:30:00.793292+00:00'),
('7323691b-19f9-4bef-8f69-a4d0ab57f985', NULL, 'risk_approval', 'BRK.B', 'You are the risk officer. Approve BRK.B at 2 % of equity? RSI 32.7', NULL, '{"action": "HOLD", "confidence": 0.57, "reason": "trend’s intact"}', 'llama-3.1-70b', 1417, NULL, 'success', '136.27198704', '{"rsi": 32.7, "macd": {"line": -0.303}, "note": "l''été"}', 'risk-officer', 0.57, '2025-03-03T10:07:00.228612+00:00'),
('ead492d2-6a01-4b66-9e4a-329cdbe7df00', NULL, 'risk_approval', 'SAP.DE', 'You are the risk officer. Approve SAP.DE at 2 % of equity? RSI 53.8', '[-0.066578,-0.524321,-0.658109]', 'SELL — \no backslash is safe	in text', 'llama-3.1-70b', NULL, 2373, 'FAILURE', '-478.84433032', NULL, 'momentum', 0.78, '2025-03-03T10:44:00.398546+00:00'),
('144b2080-521b-45ad-a989-d8e5d645f899', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'exit', 'ETH', 'Öffnung in Xetra, ETH: RSI 31.0 – kaufen?', '[0.366176,0.763264,-0.185052]', 'BUY — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', NULL, NULL, 'SUCCESS', '-400.97139058', '{"rsi": 31.0, "macd": {"line": -1.026}, "note": "l''été"}', 'momentum', 0.68, '2025-03-03T11:21:00.484392+00:00'),
('9e3b3748-d688-4f4e-91a5-099ca8b7d9bb', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'exit', 'ETH', '行情：ETH，RSI 49.0。买入还是卖出？ 📈', NULL, 'SELL. I''d size it small.', 'gpt-4o-2024-08-06', NULL, NULL, 'SUCCESS', '9.75', '{"rsi": 49.0, "macd": {"line": -1.166}, "note": "l''été"}', 'Händler-Ost', NULL, '2025-03-03T11:58:00.437381+00:00'),
('fb5f96e1-0d3a-4c8a-8c60-b310b26f7395', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'risk_approval', '', 'RSI(14) is 69.2, MACD crossed upwards. Position: none. Buy, sell or hold SAP.DE?', '[-0.989413,-0.075057,-0.222706]', '{"action": "HOLD", "confidence": 0.32}', 'gpt-4o-2024-08-06', NULL, 2738, 'success', '2.93', NULL, 'momentum', NULL, '2025-03-03T12:35:00.790827+00:00'),
('f4540f67-7ac2-47fc-b3a7-4c4eee57795f', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'signal', 'BRK.B', '行情：BRK.B，RSI 42.1。买入还是卖出？ 📈', NULL, '{"action": "SELL", "confidence": 0.5, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', NULL, 7962, 'FAILURE', '-4.12', NULL, 'mean-reversion', '1.5', '2025-03-03T13:12:00.113632+00:00'),
('9f592c2f-508b-44f1-b7c3-1e48a91c5bad', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', '7203.T', 'Öffnung in Xetra, 7203.T: RSI 67.4 – kaufen?', '[0.024857,-0.159676,-0.565775]', 'SELL. I''d size it small.', 'llama-3.1-70b', NULL, NULL, 'SUCCESS', '12.5', NULL, 'Händler-Ost', 0.49, NULL),
('1dd10bb4-b756-4bea-a90d-114405fa2a02', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'exit', 'NVDA', 'RSI(14) is 65.4, MACD crossed upwards. Position: none. Buy, sell or hold NVDA?', NULL, '{"action": "HOLD", "confidence": 0.73}', 'gpt-4o-2024-08-06', NULL, 2129, NULL, '-3.25', '{"rsi": 65.4, "macd": {"line": -1.186}, "note": "l''été"}', 'Händler-Ost', 0.73, '2025-03-03T14:26:00.499955+00:00'),
('00000000-0000-0000-0000-000000000000', NULL, 'exit', 'BTC', 'You are the risk officer. Approve BTC at 2 % of equity? RSI 66.1', NULL, '{"action": "BUY", "confidence": 0.82}', 'claude-3-5-sonnet-20241022', NULL, 4569, 'FAILURE', NULL, '{"rsi": 66.1, "macd": {"line": -0.904}, "note": "l''été"}', 'momentum', 0.82, '2025-03-03T15:03:00.018959+00:00'),
('ffffffff-ffff-ffff-ffff-ffffffffffff', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'exit', 'AAPL', 'You are the risk officer. Approve AAPL at 2 % of equity? RSI 74.3', NULL, '{"action": "SELL", "confidence": 0.65}', 'llama-3.1-70b', NULL, 2292, 'SUCCESS', NULL, NULL, 'Händler-Ost', 0.65, '2025-03-03T15:40:00.225242+00:00'),
('801def94-316b-4522-b045-cccc00c20d93', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', 'SAP.DE', '', '[-0.733881,0.863732,-0.114537]', '', 'gpt-4o-2024-08-06', NULL, NULL, 'FAILURE', NULL, '{"rsi": 37.4, "trend": "down"}', 'risk-officer', NULL, '2025-03-03T16:17:00.771765+00:00'),
('f23393ab-299e-46ba-abb5-7ee010f5fe0d', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'signal', 'NVDA', 'Market notes:
- NVDA gapped up
- RSI 64.9
What''s your call? ''Hold'' is an answer.', NULL, '{"action": "HOLD", "confidence": 0.59, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', 2275, NULL, 'FAILURE', '6.86', '{"rsi": 64.9, "macd": {"line": 1.785}, "note": "l''été"}', 'risk-officer', NULL, '2025-03-03T16:54:00.286718+00:00'),
('cef7876c-5bfc-4c45-87d3-571d1a054341', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'exit', 'BTC', 'RSI(14) is 47.9, MACD crossed upwards. Position: none. Buy, sell or hold BTC?', NULL, 'BUY — \no backslash is safe	in text', 'llama-3.1-70b', NULL, 4379, NULL, NULL, '{"rsi": 47.9, "trend": "up"}', 'momentum', NULL, '2025-03-03T17:31:00.806933+00:00'),
('0b9bfc80-4d4f-4078-96c9-4b1fabd75d12', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', 'NVDA', 'Market notes:
- NVDA gapped up
- RSI 42.3
What''s your call? ''Hold'' is an answer.', '[0.046226,0.448543,0.227705]', '{"action": "HOLD", "confidence": 0.47, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', NULL, NULL, 'SUCCESS', NULL, NULL, 'momentum', NULL, '2025-03-03T18:08:00.024066+00:00'),
('6529abd4-be63-4b65-aaa9-5d21c6f3b6cd', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'risk_approval', 'ETH', 'Market notes:
- ETH gapped up
- RSI 56.5
What''s your call? ''Hold'' is an answer.', '[0.891480,-0.069762,0.459199]', 'BUY — \no backslash is safe	in text', 'gpt-4o-2024-08-06', NULL, NULL, 'SUCCESS', '1165.13729624', NULL, 'mean-reversion', 0.34, '2025-03-03T18:45:00.536397+00:00'),
('4ba66c41-eeee-4136-8695-2ea86435e176', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'signal', 'BRK.B', 'Market notes:
- BRK.B gapped up
- RSI 24.3
What''s your call? ''Hold'' is an answer.', '[0.733467,0.267420,-0.963445]', '{"action": "SELL", "confidence": 0.68}', 'gpt-4o-2024-08-06', NULL, 7728, NULL, NULL, NULL, '量化一号', 0.68, '2025-03-03T19:22:00.574834+00:00'),
('ae7658c5-ef0e-4671-bcdd-b79898e21b34', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', '7203.T', 'Market notes:
- 7203.T gapped up
- RSI 68.3
What''s your call? ''Hold'' is an answer.', NULL, 'BUY. I''d size it small.', 'claude-3-5-sonnet-20241022', NULL, 5578, 'FAILURE', NULL, '{"rsi": 68.3, "macd": {"line": 1.273}, "note": "l''été"}', 'risk-officer', 0.66, '2025-03-03T19:59:00.377783+00:00'),
('ceb61355-a090-4f80-9fe2-176d7513cc70', NULL, 'signal', 'SAP.DE', '行情：SAP.DE，RSI 71.5。买入还是卖出？ 📈', NULL, '{"action": "BUY", "confidence": 0.54, "reason": "trend’s intact"}', 'llama-3.1-70b', NULL, 3859, 'FAILURE', '1352.79043227', '{"rsi": 71.5, "trend": "側"}', 'mean-reversion', 0.54, '2025-03-03T20:36:00.349583+00:00'),
('9d654da0-faa3-469d-9087-f57076d5fee6', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'signal', 'NVDA', 'Market notes:
- NVDA gapped up
- RSI 22.6
What''s your call? ''Hold'' is an answer.', NULL, 'SELL — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', NULL, 6563, 'FAILURE', '3.17', '{"rsi": 22.6, "trend": "up"}', 'mean-reversion', 0.79, '2025-03-03T21:13:00.255036+00:00'),
('58679e52-140d-4538-b9e3-9c3b7968000b', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'signal', 'BTC', 'RSI(14) is 53.8, MACD crossed upwards. Position: none. Buy, sell or hold BTC?', NULL, '{"action": "HOLD", "confidence": 0.39}', 'gpt-4o-2024-08-06', NULL, NULL, NULL, NULL, NULL, '量化一号', 0.39, '2025-03-03T21:50:00.097101+00:00'),
('1d2c4ee7-2643-4b53-8e26-105b892664ae', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'exit', '7203.T', 'Öffnung in Xetra, 7203.T: RSI 49.1 – kaufen?', '[0.404320,0.358292,-0.894514]', 'SELL. I''d size it small.', 'llama-3.1-70b', 2950, 5075, 'FAILURE', '6.12', '{"rsi": 49.1, "trend": "down"}', 'risk-officer', 0.48, '2025-03-03T22:27:00.756289+00:00'),
('89cabcc9-a88a-4b2d-b59a-eff6315c0eb9', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', 'BRK.B', 'Öffnung in Xetra, BRK.B: RSI 70.2 – kaufen?', NULL, '{"action": "SELL", "confidence": 0.38}', 'claude-3-5-sonnet-20241022', NULL, NULL, 'FAILURE', NULL, NULL, 'Händler-Ost', 0.38, '2025-03-03T23:04:00.967984+00:00'),
('4b8aff7d-6c2b-4cd5-917e-0deaf821d704', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'signal', '7203.T', 'RSI(14) is 30.2, MACD crossed upwards. Position: none. Buy, sell or hold 7203.T?', NULL, 'BUY. I''d size it small.', 'claude-3-5-sonnet-20241022', NULL, NULL, 'SUCCESS', NULL, '{"rsi": 30.2, "macd": {"line": -1.231}, "note": "l''été"}', '量化一号', 0.79, '2025-03-03T23:41:00.797032+00:00'),
('e2c46217-aebc-4489-9737-aea5748bd0c6', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', 'SAP.DE', 'RSI(14) is 74.0, MACD crossed upwards. Position: none. Buy, sell or hold SAP.DE?', NULL, 'BUY. I''d size it small.', 'gpt-4o-2024-08-06', 2295, 2644, 'SUCCESS', '-349.76738337', NULL, 'Händler-Ost', 0.83, '2025-03-04T00:18:00.250338+00:00'),
('3c85230d-acf6-4580-b57c-e4d017c5c2ae', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'exit', 'AAPL', 'Market notes:
- AAPL gapped up
- RSI 20.4
What''s your call? ''Hold'' is an answer.', '[-0.410826,0.255280,-0.861018]', 'BUY — \no backslash is safe	in text', 'llama-3.1-70b', NULL, NULL, 'FAILURE', '10.65', '{"rsi": 20.4, "macd": {"line": -1.827}, "note": "l''été"}', 'risk-officer', 0.9, '2025-03-04T00:55:00.836163+00:00'),
('14c214a7-ae7f-4e0f-a85f-30b42f63bea3', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', 'AAPL', '行情：AAPL，RSI 33.4。买入还是卖出？ 📈', '[0.444071,-0.036931,0.784133]', 'HOLD — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', 2894, NULL, 'PENDING', NULL, NULL, '量化一号', 0.96, '2025-03-04T01:32:00.821794+00:00'),
('1d8cc1d7-f104-4a0f-b45f-cdf37caaa868', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', 'NVDA', 'Market notes:
- NVDA gapped up
- RSI 74.2
What''s your call? ''Hold'' is an answer.', NULL, '{"action": "SELL", "confidence": 0.54}', 'llama-3.1-70b', 2603, 6415, 'FAILURE', NULL, NULL, 'risk-officer', 0.54, '2025-03-04T02:09:00.282101+00:00'),
('23ba7c0e-189d-47d3-a53f-9676b53c92a8', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'signal', '7203.T', '行情：7203.T，RSI 70.6。买入还是卖出？ 📈', '[0.640025,-0.903962,0.247100]', 'HOLD. I''d size it small.', 'claude-3-5-sonnet-20241022', 2234, 5936, NULL, NULL, NULL, 'Händler-Ost', 0.33, '2025-03-04T02:46:00.506563+00:00'),
('f7f4ac84-9b8b-4353-96e7-98f263200be6', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'exit', 'BRK.B', 'Market notes:
- BRK.B gapped up
- RSI 67.3
What''s your call? ''Hold'' is an answer.', '[0.449378,0.165857,0.594835]', 'BUY — \no backslash is safe	in text', 'llama-3.1-70b', NULL, NULL, 'PENDING', NULL, NULL, 'Händler-Ost', 0.69, '2025-03-04T03:23:00.547691+00:00'),
('fec455f8-caeb-4b39-9518-90ea6c2d9bed', NULL, 'signal', 'SAP.DE', 'Öffnung in Xetra, SAP.DE: RSI 62.7 – kaufen?', NULL, 'BUY — \no backslash is safe	in text', 'claude-3-5-sonnet-20241022', NULL, NULL, 'SUCCESS', NULL, '{"rsi": 62.7, "macd": {"line": -0.261}, "note": "l''été"}', 'risk-officer', 0.55, '2025-03-04T04:00:00.725006+00:00'),
('5afa44ec-3b4b-41fa-9345-2811e4b5af03', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'exit', 'AAPL', 'Öffnung in Xetra, AAPL: RSI 54.2 – kaufen?', '[0.587989,-0.976427,-0.656936]', 'BUY — \no backslash is safe	in text', 'gpt-4o-2024-08-06', 1138, 7779, 'SUCCESS', '1159.15623154', '{"rsi": 54.2, "macd": {"line": -1.767}, "note": "l''été"}', 'risk-officer', 0.44, '2025-03-04T04:37:00.115326+00:00'),
('831e318a-b5fc-4797-86fd-93c260212dc6', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'risk_approval', 'BTC', 'You are the risk officer. Approve BTC at 2 % of equity? RSI 34.3', '[0.040835,0.846745,-0.679496]', '{"action": "HOLD", "confidence": 0.38, "reason": "trend’s intact"}', 'gpt-4o-2024-08-06', NULL, NULL, 'SUCCESS', '-18.10876800', '{"rsi": 34.3, "macd": {"line": 0.238}, "note": "l''été"}', '量化一号', 0.38, '2025-03-04T05:14:00.949998+00:00'),
('eecf1329-4881-44a2-9ca9-d5ed611f1ee9', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'signal', 'BTC', 'RSI(14) is 54.1, MACD crossed upwards. Position: none. Buy, sell or hold BTC?', '[0.720389,-0.947286,-0.339616]', '{"action": "BUY", "confidence": 0.36, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', 2943, NULL, 'PENDING', NULL, '{"rsi": 54.1, "macd": {"line": -1.787}, "note": "l''été"}', 'momentum', NULL, '2025-03-04T05:51:00.889823+00:00'),
('2f26515f-ed0c-4058-84dc-b0b508bd2558', NULL, 'exit', 'AAPL', 'Market notes:
- AAPL gapped up
- RSI 58.1
What''s your call? ''Hold'' is an answer.', '[0.164960,-0.318677,0.581048]', '{"action": "BUY", "confidence": 0.33, "reason": "trend’s intact"}', 'claude-3-5-sonnet-20241022', 586, 2746, 'SUCCESS', '-169.93156440', NULL, 'risk-officer', NULL, '2025-03-04T06:28:00.877852+00:00'),
('3f879507-b8f8-49ef-b3fa-e609f1f7cfb5', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'risk_approval', 'BRK.B', '行情：BRK.B，RSI 71.3。买入还是卖出？ 📈', '[-0.988994,0.932395,0.968846]', '{"action": "HOLD", "confidence": 0.57}', 'claude-3-5-sonnet-20241022', NULL, 7187, 'FAILURE', NULL, '{"rsi": 71.3, "trend": "up"}', 'risk-officer', 0.57, '2025-03-04T07:05:00.875798+00:00'),
('04e5e73f-f968-496b-a68c-8f3e73fc1ec2', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'exit', 'NVDA', 'Market notes:
- NVDA gapped up
- RSI 49.9
What''s your call? ''Hold'' is an answer.', NULL, 'BUY. I''d size it small.', 'gpt-4o-2024-08-06', 2884, NULL, NULL, NULL, NULL, '量化一号', 0.55, '2025-03-04T07:42:00.637024+00:00'),
('59497f14-a2c9-4fdf-be89-cc54657fd8e6', '3ceaaf30-8142-48ea-91d9-3080f9b439fc', 'risk_approval', 'ETH', 'Market notes:
- ETH gapped up
- RSI 58.0
What''s your call? ''Hold'' is an answer.', '[0.871273,-0.149237,-0.496728]', 'BUY — \no backslash is safe	in text', 'llama-3.1-70b', NULL, NULL, NULL, NULL, '{"rsi": 58.0, "macd": {"line": -0.147}, "note": "l''été"}', '量化一号', NULL, '2025-03-04T08:19:00.019934+00:00'),
('5eedeff1-349d-43dc-9b49-a6cd4c42cfb1', NULL, 'risk_approval', 'ETH', 'RSI(14) is 54.9, MACD crossed upwards. Position: none. Buy, sell or hold ETH?', NULL, 'SELL — \no backslash is safe	in text', 'gpt-4o-2024-08-06', NULL, NULL, 'success', '12.10', NULL, 'momentum', 0.8, '2025-03-04T08:56:00.995523+00:00'),
('d2ae40bc-8008-4098-acf7-c1cb3893ac34', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'exit', 'BRK.B', 'Market notes:
- BRK.B gapped up
- RSI 48.4
What''s your call? ''Hold'' is an answer.', '[0.108404,0.510064,-0.870102]', 'SELL — \no backslash is safe	in text', 'gpt-4o-2024-08-06', 2054, NULL, 'FAILURE', '-8.89', '{"rsi": 48.4, "trend": "側"}', 'mean-reversion', 0.52, '2025-03-04T09:33:00.329095+00:00'),
('c13a3f9f-d8fe-43fa-8425-45ebdaf2e824', '9dfb369b-ab13-4fae-a276-55daa05f1119', 'risk_approval', 'BRK.B', '行情：BRK.B，RSI 42.2。买入还是卖出？ 📈', NULL, 'SELL — \no backslash is safe	in text', 'llama-3.1-70b', 2961, 7816, 'SUCCESS', NULL, '{"rsi": 42.2, "macd": {"line": -1.599}, "note": "l''été"}', 'Händler-Ost', 0.68, '2025-03-04T10:10:00.830777+00:00'),
('a1becd43-2fc3-4f69-afa0-4b30448de8ce', '6301bbfc-a0c5-454e-8ff9-bb510944fe0c', 'risk_approval', 'SAP.DE', '行情：SAP.DE，RSI 33.8。买入还是卖出？ 📈', '[-0.210259,0.276856,0.205824]', '{"action": "BUY", "confidence": 0.31}', 'claude-3-5-sonnet-20241022', NULL, NULL, 'SUCCESS', '10.16', '{"rsi": 33.8, "macd": {"line": 1.98}, "note": "l''été"}', 'Händler-Ost', 0.31, '2025-03-04T10:47:00.200147+00:00');
