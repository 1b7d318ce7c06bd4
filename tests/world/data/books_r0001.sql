-- SQLite books at revision 0001 with rows in every table, as that release wrote them: what an upgrade starts from.
BEGIN TRANSACTION;
CREATE TABLE access_log (
	entry_id TEXT NOT NULL, 
	agent TEXT NOT NULL, 
	table_name TEXT NOT NULL, 
	verb TEXT NOT NULL, 
	allowed BOOLEAN NOT NULL, 
	detail TEXT, 
	occurred_at TEXT NOT NULL, 
	PRIMARY KEY (entry_id)
)
 WITHOUT ROWID

;
INSERT INTO "access_log" VALUES('text-0','text-0','text-0','text-0',1,'text-0','2026-01-05T00:00:00.000000Z');
INSERT INTO "access_log" VALUES('text-1','text-1','text-1','text-1',1,'text-1','2026-01-05T00:00:00.000000Z');
CREATE TABLE books_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT books_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "books_version" VALUES('0001');
CREATE TABLE decision_events (
	event_id TEXT NOT NULL, 
	recommendation_id TEXT NOT NULL, 
	sequence BIGINT NOT NULL, 
	from_status TEXT, 
	to_status TEXT NOT NULL, 
	agent TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	role TEXT, 
	reason TEXT NOT NULL, 
	plan_hash TEXT, 
	policy_version BIGINT, 
	payload TEXT, 
	occurred_at TEXT NOT NULL, 
	PRIMARY KEY (event_id)
)
 WITHOUT ROWID

;
INSERT INTO "decision_events" VALUES('01829618-d347-5ab2-bd95-33b3fe833bba','r-executing',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-executing',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('06b314d9-beac-5692-8ee3-93ee76ef00c1','r-expired',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-expired',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('08d974c9-0b2e-53a4-8806-ce905c5e6181','r-verified',1,'proposed','approved','governance','governance',NULL,'as planned','plan-r-verified',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('1784bb41-5374-5242-80ba-5649bbc5856c','r-executed',1,'proposed','approved','governance','governance',NULL,'as planned','plan-r-executed',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('23cd9e8e-e591-52ad-b81d-f50370a51496','r-verified',3,'executing','executed','executor','executor',NULL,'as planned','plan-r-verified',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('2850f720-2023-54e9-b144-17d485b37817','r-proposed',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-proposed',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('387151c0-8c85-5a53-8ec3-7436a12f9a5f','r-executing',2,'approved','executing','executor','executor',NULL,'as planned','plan-r-executing',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('3da427d0-9cdb-528c-a5fc-fcad62263261','r-rejected',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-rejected',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('445240d8-36a1-5dfa-841f-8f8be1a892e6','r-verified',4,'executed','verified','verifier','verifier',NULL,'as planned','plan-r-verified',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('52c79114-6d0d-57e3-9b3c-6d31408f4fdd','r-executed',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-executed',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('5889e76e-d178-55a4-9a9c-fccb8b894e6c','r-executing',1,'proposed','approved','governance','governance',NULL,'as planned','plan-r-executing',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('5f08f492-5b44-5e83-84e6-6e5ee5c37d43','r-expired',1,'proposed','expired','governance','governance',NULL,'as planned','plan-r-expired',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('626b3c43-7eb9-5fb8-901e-4373da54b529','r-approved',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-approved',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('68689907-0c10-5e07-8b3b-84545e35467b','r-failed',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-failed',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('99f87e26-bf26-57f7-adce-839db4ab7d6c','r-approved',1,'proposed','approved','governance','governance',NULL,'as planned','plan-r-approved',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('9fb70039-3f4c-5903-9360-b55444db05f5','r-verified',0,NULL,'proposed','planner','planner',NULL,'as planned','plan-r-verified',NULL,'{"action_type":"region_shift","confidence":0.9,"current_config":{"region":"us-east-1","start":"2026-01-05T03:00:00Z"},"est_carbon_delta_kg":-1.5,"est_cost_delta_usd":0.25,"est_latency_delta_ms":12.0,"proposed_config":{"region":"us-west-2","start":"2026-01-05T03:00:00Z"},"rationale_text":"Oregon''s grid is cleaner","risk_level":"low","workload_category":"balanced","workload_id":"nightly-etl"}','2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('a6ec4956-f60d-565a-bce5-dda8f072a689','r-failed',2,'approved','executing','executor','executor',NULL,'as planned','plan-r-failed',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('b0c63ffb-bb8f-546a-85f2-bf0e9373d234','r-failed',1,'proposed','approved','governance','governance',NULL,'as planned','plan-r-failed',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('b3976472-00eb-54e7-be11-d01b5d31cef2','r-executed',3,'executing','executed','executor','executor',NULL,'as planned','plan-r-executed',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('c1a2bf1c-1071-5fdc-aefa-44a17c7b78f7','r-executed',2,'approved','executing','executor','executor',NULL,'as planned','plan-r-executed',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('d60df44b-efa2-5e80-844c-c583dc56f010','r-failed',3,'executing','failed','executor','executor',NULL,'as planned','plan-r-failed',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('d88635f4-e4cc-5684-8eb0-f895d27e385f','r-verified',2,'approved','executing','executor','executor',NULL,'as planned','plan-r-verified',NULL,NULL,'2026-01-05T00:00:00.000000Z');
INSERT INTO "decision_events" VALUES('f17a0a1b-f5dd-51c7-8fae-a6a46723a3ff','r-rejected',1,'proposed','rejected','governance','governance',NULL,'as planned','plan-r-rejected',NULL,NULL,'2026-01-05T00:00:00.000000Z');
CREATE TABLE emission_factors (
	factor_id TEXT NOT NULL, 
	factor_type TEXT NOT NULL, 
	region TEXT, 
	provider TEXT, 
	name TEXT NOT NULL, 
	value DOUBLE NOT NULL, 
	value_lower DOUBLE NOT NULL, 
	value_upper DOUBLE NOT NULL, 
	unit TEXT NOT NULL, 
	bound_reading TEXT NOT NULL, 
	source TEXT NOT NULL, 
	source_url TEXT, 
	source_year BIGINT, 
	licence TEXT, 
	valid_from TEXT NOT NULL, 
	valid_to TEXT, 
	version BIGINT NOT NULL, 
	created_at TEXT NOT NULL, 
	PRIMARY KEY (factor_id)
)
 WITHOUT ROWID

;
INSERT INTO "emission_factors" VALUES('text-0','text-0','text-0','text-0','text-0',1.5,1.5,1.5,'text-0','text-0','text-0','text-0',0,'text-0','2026-01-05T00:00:00.000000Z','2026-01-05T00:00:00.000000Z',0,'2026-01-05T00:00:00.000000Z');
INSERT INTO "emission_factors" VALUES('text-1','text-1','text-1','text-1','text-1',2.5,2.5,2.5,'text-1','text-1','text-1','text-1',1,'text-1','2026-01-05T00:00:00.000000Z','2026-01-05T00:00:00.000000Z',1,'2026-01-05T00:00:00.000000Z');
CREATE TABLE factor_reviews (
	review_id TEXT NOT NULL, 
	factor_id TEXT NOT NULL, 
	decision TEXT NOT NULL, 
	reviewer TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	reviewed_at TEXT NOT NULL, 
	PRIMARY KEY (review_id), 
	FOREIGN KEY(factor_id) REFERENCES emission_factors (factor_id)
)
 WITHOUT ROWID

;
INSERT INTO "factor_reviews" VALUES('text-0','text-0','text-0','text-0','text-0','2026-01-05T00:00:00.000000Z');
CREATE TABLE log_commitments (
	leaf_index BIGINT NOT NULL, 
	kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	leaf TEXT NOT NULL, 
	leaf_hash TEXT NOT NULL, 
	committed_at TEXT NOT NULL, 
	PRIMARY KEY (leaf_index)
)
 WITHOUT ROWID

;
INSERT INTO "log_commitments" VALUES(0,'text-0','text-0','text-0','text-0','2026-01-05T00:00:00.000000Z');
INSERT INTO "log_commitments" VALUES(1,'text-1','text-1','text-1','text-1','2026-01-05T00:00:00.000000Z');
CREATE TABLE nudges (
	entry_id TEXT NOT NULL, 
	recipient TEXT NOT NULL, 
	team_id TEXT NOT NULL, 
	format TEXT NOT NULL, 
	subject_ref TEXT NOT NULL, 
	event TEXT NOT NULL, 
	occurred_at TEXT NOT NULL, 
	PRIMARY KEY (entry_id)
)
 WITHOUT ROWID

;
INSERT INTO "nudges" VALUES('text-0','text-0','text-0','text-0','text-0','text-0','2026-01-05T00:00:00.000000Z');
INSERT INTO "nudges" VALUES('text-1','text-1','text-1','text-1','text-1','text-1','2026-01-05T00:00:00.000000Z');
CREATE TABLE outbox (
	intent_id TEXT NOT NULL, 
	sequence BIGINT NOT NULL, 
	recommendation_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	payload TEXT NOT NULL, 
	occurred_at TEXT NOT NULL, 
	PRIMARY KEY (intent_id, sequence)
)
 WITHOUT ROWID

;
INSERT INTO "outbox" VALUES('text-0',0,'text-0','text-0','text-0','2026-01-05T00:00:00.000000Z');
INSERT INTO "outbox" VALUES('text-1',1,'text-1','text-1','text-1','2026-01-05T00:00:00.000000Z');
CREATE TABLE points_ledger (
	entry_id TEXT NOT NULL, 
	team_id TEXT NOT NULL, 
	outcome_id TEXT NOT NULL, 
	points BIGINT NOT NULL, 
	grams DOUBLE NOT NULL, 
	reason TEXT NOT NULL, 
	awarded_at TEXT NOT NULL, 
	PRIMARY KEY (entry_id)
)
 WITHOUT ROWID

;
INSERT INTO "points_ledger" VALUES('text-0','text-0','text-0',0,1.5,'text-0','2026-01-05T00:00:00.000000Z');
INSERT INTO "points_ledger" VALUES('text-1','text-1','text-1',1,2.5,'text-1','2026-01-05T00:00:00.000000Z');
CREATE TABLE policies (
	policy_id TEXT NOT NULL, 
	version BIGINT NOT NULL, 
	document TEXT NOT NULL, 
	document_hash TEXT NOT NULL, 
	author TEXT NOT NULL, 
	approved_by TEXT, 
	valid_from TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	PRIMARY KEY (policy_id, version)
)
 WITHOUT ROWID

;
INSERT INTO "policies" VALUES('text-0',0,'text-0','text-0','text-0','text-0','2026-01-05T00:00:00.000000Z','2026-01-05T00:00:00.000000Z');
INSERT INTO "policies" VALUES('text-1',1,'text-1','text-1','text-1','text-1','2026-01-05T00:00:00.000000Z','2026-01-05T00:00:00.000000Z');
CREATE UNIQUE INDEX emission_factors_unique ON emission_factors (factor_type, coalesce(region, ''), coalesce(provider, ''), name, version);
CREATE UNIQUE INDEX decision_events_unique ON decision_events (recommendation_id, sequence);
CREATE INDEX decision_events_lookup ON decision_events (plan_hash);
CREATE INDEX points_ledger_lookup ON points_ledger (team_id, awarded_at);
CREATE INDEX outbox_lookup ON outbox (recommendation_id);
CREATE INDEX access_log_lookup ON access_log (occurred_at);
CREATE INDEX factor_reviews_lookup ON factor_reviews (factor_id);
CREATE TRIGGER emission_factors_no_update BEFORE update ON emission_factors BEGIN SELECT RAISE(ABORT, 'emission_factors is append-only: update refused'); END;
CREATE TRIGGER emission_factors_no_delete BEFORE delete ON emission_factors BEGIN SELECT RAISE(ABORT, 'emission_factors is append-only: delete refused'); END;
CREATE TRIGGER emission_factors_no_replace BEFORE INSERT ON emission_factors WHEN EXISTS (SELECT 1 FROM emission_factors WHERE factor_id = NEW.factor_id) OR EXISTS (SELECT 1 FROM emission_factors WHERE factor_type = NEW.factor_type AND coalesce(region, '') = coalesce(NEW.region, '') AND coalesce(provider, '') = coalesce(NEW.provider, '') AND name = NEW.name AND version = NEW.version) BEGIN SELECT RAISE(ABORT, 'emission_factors is append-only: its key is taken'); END;
CREATE TRIGGER factor_reviews_no_update BEFORE update ON factor_reviews BEGIN SELECT RAISE(ABORT, 'factor_reviews is append-only: update refused'); END;
CREATE TRIGGER factor_reviews_no_delete BEFORE delete ON factor_reviews BEGIN SELECT RAISE(ABORT, 'factor_reviews is append-only: delete refused'); END;
CREATE TRIGGER factor_reviews_no_replace BEFORE INSERT ON factor_reviews WHEN EXISTS (SELECT 1 FROM factor_reviews WHERE review_id = NEW.review_id) BEGIN SELECT RAISE(ABORT, 'factor_reviews is append-only: its key is taken'); END;
CREATE TRIGGER decision_events_no_update BEFORE update ON decision_events BEGIN SELECT RAISE(ABORT, 'decision_events is append-only: update refused'); END;
CREATE TRIGGER decision_events_no_delete BEFORE delete ON decision_events BEGIN SELECT RAISE(ABORT, 'decision_events is append-only: delete refused'); END;
CREATE TRIGGER decision_events_no_replace BEFORE INSERT ON decision_events WHEN EXISTS (SELECT 1 FROM decision_events WHERE event_id = NEW.event_id) OR EXISTS (SELECT 1 FROM decision_events WHERE recommendation_id = NEW.recommendation_id AND sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'decision_events is append-only: its key is taken'); END;
CREATE TRIGGER points_ledger_no_update BEFORE update ON points_ledger BEGIN SELECT RAISE(ABORT, 'points_ledger is append-only: update refused'); END;
CREATE TRIGGER points_ledger_no_delete BEFORE delete ON points_ledger BEGIN SELECT RAISE(ABORT, 'points_ledger is append-only: delete refused'); END;
CREATE TRIGGER points_ledger_no_replace BEFORE INSERT ON points_ledger WHEN EXISTS (SELECT 1 FROM points_ledger WHERE entry_id = NEW.entry_id) BEGIN SELECT RAISE(ABORT, 'points_ledger is append-only: its key is taken'); END;
CREATE TRIGGER nudges_no_update BEFORE update ON nudges BEGIN SELECT RAISE(ABORT, 'nudges is append-only: update refused'); END;
CREATE TRIGGER nudges_no_delete BEFORE delete ON nudges BEGIN SELECT RAISE(ABORT, 'nudges is append-only: delete refused'); END;
CREATE TRIGGER nudges_no_replace BEFORE INSERT ON nudges WHEN EXISTS (SELECT 1 FROM nudges WHERE entry_id = NEW.entry_id) BEGIN SELECT RAISE(ABORT, 'nudges is append-only: its key is taken'); END;
CREATE TRIGGER policies_no_update BEFORE update ON policies BEGIN SELECT RAISE(ABORT, 'policies is append-only: update refused'); END;
CREATE TRIGGER policies_no_delete BEFORE delete ON policies BEGIN SELECT RAISE(ABORT, 'policies is append-only: delete refused'); END;
CREATE TRIGGER policies_no_replace BEFORE INSERT ON policies WHEN EXISTS (SELECT 1 FROM policies WHERE policy_id = NEW.policy_id AND version = NEW.version) BEGIN SELECT RAISE(ABORT, 'policies is append-only: its key is taken'); END;
CREATE TRIGGER outbox_no_update BEFORE update ON outbox BEGIN SELECT RAISE(ABORT, 'outbox is append-only: update refused'); END;
CREATE TRIGGER outbox_no_delete BEFORE delete ON outbox BEGIN SELECT RAISE(ABORT, 'outbox is append-only: delete refused'); END;
CREATE TRIGGER outbox_no_replace BEFORE INSERT ON outbox WHEN EXISTS (SELECT 1 FROM outbox WHERE intent_id = NEW.intent_id AND sequence = NEW.sequence) BEGIN SELECT RAISE(ABORT, 'outbox is append-only: its key is taken'); END;
CREATE TRIGGER access_log_no_update BEFORE update ON access_log BEGIN SELECT RAISE(ABORT, 'access_log is append-only: update refused'); END;
CREATE TRIGGER access_log_no_delete BEFORE delete ON access_log BEGIN SELECT RAISE(ABORT, 'access_log is append-only: delete refused'); END;
CREATE TRIGGER access_log_no_replace BEFORE INSERT ON access_log WHEN EXISTS (SELECT 1 FROM access_log WHERE entry_id = NEW.entry_id) BEGIN SELECT RAISE(ABORT, 'access_log is append-only: its key is taken'); END;
CREATE TRIGGER log_commitments_no_update BEFORE update ON log_commitments BEGIN SELECT RAISE(ABORT, 'log_commitments is append-only: update refused'); END;
CREATE TRIGGER log_commitments_no_delete BEFORE delete ON log_commitments BEGIN SELECT RAISE(ABORT, 'log_commitments is append-only: delete refused'); END;
CREATE TRIGGER log_commitments_no_replace BEFORE INSERT ON log_commitments WHEN EXISTS (SELECT 1 FROM log_commitments WHERE leaf_index = NEW.leaf_index) BEGIN SELECT RAISE(ABORT, 'log_commitments is append-only: its key is taken'); END;
CREATE TRIGGER decision_events_transition BEFORE INSERT ON decision_events BEGIN SELECT RAISE(ABORT, 'decision_events refused, no such transition for this agent') WHERE ((NEW.from_status IS NULL AND NEW.to_status = 'proposed' AND NEW.agent = 'planner') OR (NEW.from_status = 'proposed' AND NEW.to_status = 'approved' AND NEW.agent = 'governance') OR (NEW.from_status = 'proposed' AND NEW.to_status = 'rejected' AND NEW.agent = 'governance') OR (NEW.from_status = 'proposed' AND NEW.to_status = 'expired' AND NEW.agent = 'governance') OR (NEW.from_status = 'approved' AND NEW.to_status = 'executing' AND NEW.agent = 'executor') OR (NEW.from_status = 'approved' AND NEW.to_status = 'expired' AND NEW.agent = 'governance') OR (NEW.from_status = 'executing' AND NEW.to_status = 'executed' AND NEW.agent = 'executor') OR (NEW.from_status = 'executing' AND NEW.to_status = 'failed' AND NEW.agent = 'executor') OR (NEW.from_status = 'executed' AND NEW.to_status = 'verified' AND NEW.agent = 'verifier')) IS NOT TRUE; SELECT RAISE(ABORT, 'decision_events refused, its sequence is not the next') WHERE NEW.sequence <> (SELECT count(*) FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id); SELECT RAISE(ABORT, 'decision_events refused, its from_status is not the state') WHERE NEW.from_status IS NOT (SELECT e.to_status FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id ORDER BY e.sequence DESC LIMIT 1); SELECT RAISE(ABORT, 'decision_events refused, its actor is another agent') WHERE NEW.actor <> NEW.agent AND NEW.actor IN ('ingestor', 'accountant', 'planner', 'governance', 'executor', 'verifier', 'learner', 'copilot'); SELECT RAISE(ABORT, 'decision_events refused, it must name the plan it is about') WHERE NEW.plan_hash IS NULL AND NEW.to_status IN ('proposed', 'approved', 'executing'); SELECT RAISE(ABORT, 'decision_events refused, it is about another plan than proposed') WHERE NEW.plan_hash <> (SELECT e.plan_hash FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id AND e.sequence = 0); SELECT RAISE(ABORT, 'decision_events refused, a person rejected this plan') WHERE NEW.to_status IN ('proposed', 'approved', 'executing') AND EXISTS (SELECT 1 FROM decision_events e WHERE e.to_status = 'rejected' AND e.plan_hash = NEW.plan_hash AND e.actor NOT IN ('ingestor', 'accountant', 'planner', 'governance', 'executor', 'verifier', 'learner', 'copilot')); END;
CREATE VIEW decision_log AS
SELECT
  p.event_id AS decision_id,
  p.recommendation_id AS recommendation_id,
  json_extract(p.payload, '$.workload_id') AS workload_id,
  json_extract(p.payload, '$.action_type') AS action_type,
  json_extract(p.payload, '$.current_config') AS current_config,
  json_extract(p.payload, '$.proposed_config') AS proposed_config,
  CAST(json_extract(p.payload, '$.est_carbon_delta_kg') AS REAL) AS est_carbon_delta_kg,
  CAST(json_extract(p.payload, '$.est_cost_delta_usd') AS REAL) AS est_cost_delta_usd,
  CAST(json_extract(p.payload, '$.est_latency_delta_ms') AS REAL) AS est_latency_delta,
  CAST(json_extract(p.payload, '$.confidence') AS REAL) AS confidence,
  json_extract(p.payload, '$.workload_category') AS workload_category,
  json_extract(p.payload, '$.rationale_text') AS rationale,
  (SELECT e.to_status FROM decision_events e WHERE e.recommendation_id = p.recommendation_id ORDER BY e.sequence DESC LIMIT 1) AS status,
  p.occurred_at AS proposed_at,
  a.occurred_at AS approved_at,
  a.actor AS approved_by,
  x.occurred_at AS executed_at,
  (SELECT json_extract(e.payload, '$.execution_ref') FROM decision_events e WHERE e.recommendation_id = p.recommendation_id AND json_extract(e.payload, '$.execution_ref') IS NOT NULL ORDER BY e.sequence DESC LIMIT 1) AS execution_ref,
  json_extract(p.payload, '$.risk_level') AS risk_level
FROM decision_events p
LEFT JOIN decision_events a ON a.recommendation_id = p.recommendation_id AND a.to_status = 'approved'
LEFT JOIN decision_events x ON x.recommendation_id = p.recommendation_id AND x.to_status = 'executed'
WHERE p.to_status = 'proposed';
COMMIT;
