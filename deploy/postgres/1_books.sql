-- Derived from sust_dagster/world by `python -m sust_dagster.world.deployment`. Run as the owner of the database.
CREATE TABLE access_log (
	entry_id TEXT NOT NULL, 
	agent TEXT NOT NULL, 
	table_name TEXT NOT NULL, 
	verb TEXT NOT NULL, 
	allowed BOOLEAN NOT NULL, 
	detail TEXT, 
	occurred_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (entry_id)
);
CREATE INDEX access_log_lookup ON access_log (occurred_at);
COMMENT ON TABLE access_log IS 'Who read or wrote what, append-only, refusals included.';
COMMENT ON COLUMN access_log.entry_id IS 'random id';
COMMENT ON COLUMN access_log.agent IS 'agent or role';
COMMENT ON COLUMN access_log.table_name IS 'table';
COMMENT ON COLUMN access_log.verb IS 'read, write, propose, approve, execute, verify';
COMMENT ON COLUMN access_log.allowed IS 'whether it was allowed';
COMMENT ON COLUMN access_log.detail IS 'range or key';
COMMENT ON COLUMN access_log.occurred_at IS 'when';
CREATE TABLE alerts (
	alert_id TEXT NOT NULL, 
	sequence BIGINT NOT NULL, 
	event TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	text TEXT NOT NULL, 
	agent TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	occurred_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (alert_id, sequence)
);
COMMENT ON TABLE alerts IS 'What people should look at, append-only: an alert is raised once and acknowledged by a later event.';
COMMENT ON COLUMN alerts.alert_id IS 'UUIDv5 of kind and subject: the same finding raises one alert';
COMMENT ON COLUMN alerts.sequence IS '0 raised, 1 acknowledged';
COMMENT ON COLUMN alerts.event IS 'raised or acknowledged';
COMMENT ON COLUMN alerts.kind IS 'policy_changed, policy_proposed, approval_wanted, ...';
COMMENT ON COLUMN alerts.subject IS 'what it is about: a policy version, a recommendation, ...';
COMMENT ON COLUMN alerts.text IS 'what a person should know; on an acknowledgement, what they say';
COMMENT ON COLUMN alerts.agent IS 'agent that wrote the event';
COMMENT ON COLUMN alerts.actor IS 'who raised or acknowledged it: an agent or an account';
COMMENT ON COLUMN alerts.occurred_at IS 'when';
CREATE TABLE approvals (
	approval_id TEXT NOT NULL, 
	recommendation_id TEXT NOT NULL, 
	plan_hash TEXT NOT NULL, 
	signer TEXT NOT NULL, 
	role TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	policy_version BIGINT NOT NULL, 
	signed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	expires_at TIMESTAMP WITH TIME ZONE, 
	PRIMARY KEY (approval_id)
);
CREATE INDEX approvals_lookup ON approvals (recommendation_id, plan_hash);
COMMENT ON TABLE approvals IS 'One row per signature of a person on a plan, append-only; what the transitions of decision_events rest on.';
COMMENT ON COLUMN approvals.approval_id IS 'UUIDv5 of recommendation, plan, signer, role, verdict and count';
COMMENT ON COLUMN approvals.recommendation_id IS 'the recommendation';
COMMENT ON COLUMN approvals.plan_hash IS 'the plan that was signed; another plan needs another signature';
COMMENT ON COLUMN approvals.signer IS 'account that signed';
COMMENT ON COLUMN approvals.role IS 'role it signed in: team-lead or platform';
COMMENT ON COLUMN approvals.verdict IS 'approve or reject';
COMMENT ON COLUMN approvals.reason IS 'why';
COMMENT ON COLUMN approvals.policy_version IS 'policy in force; a signature counts under this one only';
COMMENT ON COLUMN approvals.signed_at IS 'when';
COMMENT ON COLUMN approvals.expires_at IS 'first instant an approval counts no more; a rejection never ends';
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
	occurred_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (event_id)
);
CREATE INDEX decision_events_lookup ON decision_events (plan_hash);
CREATE UNIQUE INDEX decision_events_unique ON decision_events (recommendation_id, sequence);
COMMENT ON TABLE decision_events IS 'Every transition of every recommendation, append-only; decision_log is a view of it.';
COMMENT ON COLUMN decision_events.event_id IS 'UUIDv5 of recommendation, transition and attempt';
COMMENT ON COLUMN decision_events.recommendation_id IS 'the recommendation';
COMMENT ON COLUMN decision_events.sequence IS 'position within the recommendation, from 0';
COMMENT ON COLUMN decision_events.from_status IS 'state before, null for the first';
COMMENT ON COLUMN decision_events.to_status IS 'state after';
COMMENT ON COLUMN decision_events.agent IS 'agent that wrote the event';
COMMENT ON COLUMN decision_events.actor IS 'who decided: an agent or an account';
COMMENT ON COLUMN decision_events.role IS 'role the actor acted in';
COMMENT ON COLUMN decision_events.reason IS 'why';
COMMENT ON COLUMN decision_events.plan_hash IS 'plan the event is bound to';
COMMENT ON COLUMN decision_events.policy_version IS 'policy in force';
COMMENT ON COLUMN decision_events.payload IS 'JSON: the proposal''s fields on ''proposed'', references on others';
COMMENT ON COLUMN decision_events.occurred_at IS 'when';
CREATE TABLE emission_factors (
	factor_id TEXT NOT NULL, 
	factor_type TEXT NOT NULL, 
	region TEXT, 
	provider TEXT, 
	name TEXT NOT NULL, 
	value DOUBLE PRECISION NOT NULL, 
	value_lower DOUBLE PRECISION NOT NULL, 
	value_upper DOUBLE PRECISION NOT NULL, 
	unit TEXT NOT NULL, 
	bound_reading TEXT NOT NULL, 
	source TEXT NOT NULL, 
	source_url TEXT, 
	source_year BIGINT, 
	licence TEXT, 
	valid_from TIMESTAMP WITH TIME ZONE NOT NULL, 
	valid_to TIMESTAMP WITH TIME ZONE, 
	version BIGINT NOT NULL, 
	created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (factor_id)
);
CREATE UNIQUE INDEX emission_factors_unique ON emission_factors (factor_type, coalesce(region, ''), coalesce(provider, ''), name, version);
COMMENT ON TABLE emission_factors IS 'Versioned factors, append-only; a new version waits for a reviewer before it is used.';
COMMENT ON COLUMN emission_factors.factor_id IS 'UUIDv5 of type, region, provider, name and version';
COMMENT ON COLUMN emission_factors.factor_type IS 'grid_intensity, pue, power, memory, gpu, embodied, network, storage, market';
COMMENT ON COLUMN emission_factors.region IS 'region, or null for all';
COMMENT ON COLUMN emission_factors.provider IS 'provider, or null for all';
COMMENT ON COLUMN emission_factors.name IS 'what within the type: CPU family, GPU model, instrument, ...';
COMMENT ON COLUMN emission_factors.value IS 'the figure, in unit';
COMMENT ON COLUMN emission_factors.value_lower IS 'lower bound';
COMMENT ON COLUMN emission_factors.value_upper IS 'upper bound';
COMMENT ON COLUMN emission_factors.unit IS 'unit of the figure';
COMMENT ON COLUMN emission_factors.bound_reading IS 'how the bound is to be read: ''95% lognormal'', ''uniform'', ...';
COMMENT ON COLUMN emission_factors.source IS 'who published it';
COMMENT ON COLUMN emission_factors.source_url IS 'where';
COMMENT ON COLUMN emission_factors.source_year IS 'year of the figure';
COMMENT ON COLUMN emission_factors.licence IS 'licence of the figure';
COMMENT ON COLUMN emission_factors.valid_from IS 'first instant it applies to';
COMMENT ON COLUMN emission_factors.valid_to IS 'last instant, exclusive';
COMMENT ON COLUMN emission_factors.version IS '1, 2, ... within (type, region, provider, name)';
COMMENT ON COLUMN emission_factors.created_at IS 'when the row was written';
CREATE TABLE log_commitments (
	leaf_index BIGINT NOT NULL, 
	kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	leaf TEXT NOT NULL, 
	leaf_hash TEXT NOT NULL, 
	committed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (leaf_index)
);
COMMENT ON TABLE log_commitments IS 'Leaves of the transparency log (RFC 6962), append-only.';
COMMENT ON COLUMN log_commitments.leaf_index IS 'position in the tree, from 0';
COMMENT ON COLUMN log_commitments.kind IS 'partition, decision, approval, policy, factor, baseline, bundle, ...';
COMMENT ON COLUMN log_commitments.subject IS 'what is committed to: table and version, or the key of a row';
COMMENT ON COLUMN log_commitments.leaf IS 'RFC 8785 canonical JSON of kind, subject and digests';
COMMENT ON COLUMN log_commitments.leaf_hash IS 'SHA-256 over a zero byte and the leaf, hexadecimal';
COMMENT ON COLUMN log_commitments.committed_at IS 'when; not part of the leaf';
CREATE TABLE nudges (
	entry_id TEXT NOT NULL, 
	recipient TEXT NOT NULL, 
	team_id TEXT NOT NULL, 
	format TEXT NOT NULL, 
	subject_ref TEXT NOT NULL, 
	event TEXT NOT NULL, 
	occurred_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (entry_id)
);
COMMENT ON TABLE nudges IS 'Messages sent to developers, append-only: what, when, which format, and what came of it.';
COMMENT ON COLUMN nudges.entry_id IS 'UUIDv5 of recipient, week and slot';
COMMENT ON COLUMN nudges.recipient IS 'account the nudge went to';
COMMENT ON COLUMN nudges.team_id IS 'team';
COMMENT ON COLUMN nudges.format IS 'A/B arm';
COMMENT ON COLUMN nudges.subject_ref IS 'what it is about';
COMMENT ON COLUMN nudges.event IS 'sent, opened, acted, muted';
COMMENT ON COLUMN nudges.occurred_at IS 'when';
CREATE TABLE outbox (
	intent_id TEXT NOT NULL, 
	sequence BIGINT NOT NULL, 
	recommendation_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	payload TEXT NOT NULL, 
	occurred_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (intent_id, sequence)
);
CREATE INDEX outbox_lookup ON outbox (recommendation_id);
COMMENT ON TABLE outbox IS 'Intents and their results, append-only: what makes execution happen exactly once.';
COMMENT ON COLUMN outbox.intent_id IS 'UUIDv5 of recommendation and change: the idempotency key';
COMMENT ON COLUMN outbox.sequence IS '0 intent, 1.. attempts and result';
COMMENT ON COLUMN outbox.recommendation_id IS 'the recommendation';
COMMENT ON COLUMN outbox.state IS 'intended, attempting, done, rolled_back, failed';
COMMENT ON COLUMN outbox.payload IS 'JSON: the exact change, or its result';
COMMENT ON COLUMN outbox.occurred_at IS 'when';
CREATE TABLE points_ledger (
	entry_id TEXT NOT NULL, 
	team_id TEXT NOT NULL, 
	outcome_id TEXT NOT NULL, 
	points BIGINT NOT NULL, 
	grams DOUBLE PRECISION NOT NULL, 
	reason TEXT NOT NULL, 
	awarded_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (entry_id)
);
CREATE INDEX points_ledger_lookup ON points_ledger (team_id, awarded_at);
COMMENT ON TABLE points_ledger IS 'Points by team, append-only; grams are booked, whole points are shown per team and month.';
COMMENT ON COLUMN points_ledger.entry_id IS 'UUIDv5 of outcome and kind';
COMMENT ON COLUMN points_ledger.team_id IS 'team';
COMMENT ON COLUMN points_ledger.outcome_id IS 'the verified outcome';
COMMENT ON COLUMN points_ledger.points IS 'whole points, as in the founding design';
COMMENT ON COLUMN points_ledger.grams IS 'verified grams booked, signed [gCO2e]';
COMMENT ON COLUMN points_ledger.reason IS 'why';
COMMENT ON COLUMN points_ledger.awarded_at IS 'when';
CREATE TABLE policies (
	policy_id TEXT NOT NULL, 
	version BIGINT NOT NULL, 
	document TEXT NOT NULL, 
	document_hash TEXT NOT NULL, 
	author TEXT NOT NULL, 
	approved_by TEXT, 
	valid_from TIMESTAMP WITH TIME ZONE NOT NULL, 
	created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE policies IS 'Typed policy versions, append-only; policy_reviews says which are approved.';
COMMENT ON COLUMN policies.policy_id IS 'policy';
COMMENT ON COLUMN policies.version IS '1, 2, ...';
COMMENT ON COLUMN policies.document IS 'canonical JSON of the typed policy';
COMMENT ON COLUMN policies.document_hash IS 'SHA-256 of document';
COMMENT ON COLUMN policies.author IS 'who wrote it';
COMMENT ON COLUMN policies.approved_by IS '''release'' on a first version that came with it; else null, see policy_reviews';
COMMENT ON COLUMN policies.valid_from IS 'first instant it applies';
COMMENT ON COLUMN policies.created_at IS 'when it was written';
CREATE TABLE policy_reviews (
	review_id TEXT NOT NULL, 
	policy_id TEXT NOT NULL, 
	version BIGINT NOT NULL, 
	document_hash TEXT NOT NULL, 
	signer TEXT NOT NULL, 
	role TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	policy_version BIGINT NOT NULL, 
	signed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (review_id)
);
COMMENT ON TABLE policy_reviews IS 'One row per signature of a person on a policy version, append-only; a version is in force by these.';
COMMENT ON COLUMN policy_reviews.review_id IS 'UUIDv5 of policy, version, signer, verdict and policy_version';
COMMENT ON COLUMN policy_reviews.policy_id IS 'policy';
COMMENT ON COLUMN policy_reviews.version IS 'version that was signed';
COMMENT ON COLUMN policy_reviews.document_hash IS 'SHA-256 of the document that was signed';
COMMENT ON COLUMN policy_reviews.signer IS 'account that signed';
COMMENT ON COLUMN policy_reviews.role IS 'role it signed in: team-lead or platform';
COMMENT ON COLUMN policy_reviews.verdict IS 'approve or reject';
COMMENT ON COLUMN policy_reviews.reason IS 'why';
COMMENT ON COLUMN policy_reviews.policy_version IS 'version in force when it was signed; a signature counts under this one only';
COMMENT ON COLUMN policy_reviews.signed_at IS 'when';
CREATE TABLE factor_reviews (
	review_id TEXT NOT NULL, 
	factor_id TEXT NOT NULL, 
	decision TEXT NOT NULL, 
	reviewer TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	reviewed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (review_id), 
	FOREIGN KEY(factor_id) REFERENCES emission_factors (factor_id)
);
CREATE INDEX factor_reviews_lookup ON factor_reviews (factor_id);
COMMENT ON TABLE factor_reviews IS 'Activation of factor versions, append-only: who reviewed which version, when and why.';
COMMENT ON COLUMN factor_reviews.review_id IS 'UUIDv5 of factor and decision';
COMMENT ON COLUMN factor_reviews.factor_id IS 'the factor version';
COMMENT ON COLUMN factor_reviews.decision IS 'activate or refuse';
COMMENT ON COLUMN factor_reviews.reviewer IS 'who decided';
COMMENT ON COLUMN factor_reviews.reason IS 'why';
COMMENT ON COLUMN factor_reviews.reviewed_at IS 'when';
CREATE OR REPLACE FUNCTION sust_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '% is append-only, % refused', TG_TABLE_NAME, lower(TG_OP); END $$;
CREATE OR REPLACE TRIGGER emission_factors_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON emission_factors FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER factor_reviews_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON factor_reviews FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER decision_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decision_events FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER approvals_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON approvals FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER points_ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON points_ledger FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER nudges_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON nudges FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER policies_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policies FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER policy_reviews_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_reviews FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER alerts_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON alerts FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER outbox_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON outbox FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER access_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON access_log FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE TRIGGER log_commitments_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON log_commitments FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only();
CREATE OR REPLACE FUNCTION sust_decision_transition() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF ((NEW.from_status IS NULL AND NEW.to_status = 'proposed' AND NEW.agent = 'planner') OR (NEW.from_status = 'proposed' AND NEW.to_status = 'approved' AND NEW.agent = 'governance') OR (NEW.from_status = 'proposed' AND NEW.to_status = 'rejected' AND NEW.agent = 'governance') OR (NEW.from_status = 'proposed' AND NEW.to_status = 'expired' AND NEW.agent = 'governance') OR (NEW.from_status = 'approved' AND NEW.to_status = 'executing' AND NEW.agent = 'executor') OR (NEW.from_status = 'approved' AND NEW.to_status = 'expired' AND NEW.agent = 'governance') OR (NEW.from_status = 'executing' AND NEW.to_status = 'executed' AND NEW.agent = 'executor') OR (NEW.from_status = 'executing' AND NEW.to_status = 'failed' AND NEW.agent = 'executor') OR (NEW.from_status = 'executed' AND NEW.to_status = 'verified' AND NEW.agent = 'verifier')) IS NOT TRUE THEN RAISE EXCEPTION 'decision_events refused, no such transition for this agent'; END IF; IF NEW.sequence <> (SELECT count(*) FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id) THEN RAISE EXCEPTION 'decision_events refused, its sequence is not the next'; END IF; IF NEW.from_status IS DISTINCT FROM (SELECT e.to_status FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id ORDER BY e.sequence DESC LIMIT 1) THEN RAISE EXCEPTION 'decision_events refused, its from_status is not the state'; END IF; IF NEW.actor <> NEW.agent AND NEW.actor IN ('ingestor', 'accountant', 'planner', 'governance', 'executor', 'verifier', 'learner', 'copilot') THEN RAISE EXCEPTION 'decision_events refused, its actor is another agent'; END IF; IF NEW.plan_hash IS NULL AND NEW.to_status IN ('proposed', 'approved', 'executing') THEN RAISE EXCEPTION 'decision_events refused, it must name the plan it is about'; END IF; IF NEW.plan_hash <> (SELECT e.plan_hash FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id AND e.sequence = 0) THEN RAISE EXCEPTION 'decision_events refused, it is about another plan than proposed'; END IF; IF NEW.to_status IN ('proposed', 'approved', 'executing') AND EXISTS (SELECT 1 FROM decision_events e WHERE e.to_status = 'rejected' AND e.plan_hash = NEW.plan_hash AND e.actor NOT IN ('ingestor', 'accountant', 'planner', 'governance', 'executor', 'verifier', 'learner', 'copilot')) THEN RAISE EXCEPTION 'decision_events refused, a person rejected this plan'; END IF; IF NEW.to_status = 'approved' AND coalesce((SELECT (e.payload)::jsonb ->> 'risk_level' FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id AND e.sequence = 0), 'unknown') NOT IN ('low', 'medium') AND (SELECT count(DISTINCT s.signer) FROM approvals s WHERE s.recommendation_id = NEW.recommendation_id AND s.plan_hash = NEW.plan_hash AND s.verdict = 'approve' AND s.expires_at > NEW.occurred_at AND s.signer NOT IN ('ingestor', 'accountant', 'planner', 'governance', 'executor', 'verifier', 'learner', 'copilot') AND s.signer <> (SELECT e.actor FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id AND e.sequence = 0)) < 2 THEN RAISE EXCEPTION 'decision_events refused, a high-risk plan needs the signatures of two people'; END IF; RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER decision_events_transition BEFORE INSERT ON decision_events FOR EACH ROW EXECUTE FUNCTION sust_decision_transition();
CREATE OR REPLACE VIEW decision_log WITH (security_invoker = true) AS
SELECT
  p.event_id AS decision_id,
  p.recommendation_id AS recommendation_id,
  (p.payload)::jsonb ->> 'workload_id' AS workload_id,
  (p.payload)::jsonb ->> 'action_type' AS action_type,
  ((p.payload)::jsonb ->> 'current_config')::jsonb AS current_config,
  ((p.payload)::jsonb ->> 'proposed_config')::jsonb AS proposed_config,
  CAST((p.payload)::jsonb ->> 'est_carbon_delta_kg' AS double precision) AS est_carbon_delta_kg,
  CAST((p.payload)::jsonb ->> 'est_cost_delta_usd' AS double precision) AS est_cost_delta_usd,
  CAST((p.payload)::jsonb ->> 'est_latency_delta_ms' AS double precision) AS est_latency_delta,
  CAST((p.payload)::jsonb ->> 'confidence' AS double precision) AS confidence,
  (p.payload)::jsonb ->> 'workload_category' AS workload_category,
  (p.payload)::jsonb ->> 'rationale_text' AS rationale,
  (SELECT e.to_status FROM decision_events e WHERE e.recommendation_id = p.recommendation_id ORDER BY e.sequence DESC LIMIT 1) AS status,
  p.occurred_at AS proposed_at,
  a.occurred_at AS approved_at,
  coalesce((SELECT string_agg(s.signer, ', ' ORDER BY s.signed_at, s.signer) FROM approvals s WHERE s.recommendation_id = a.recommendation_id AND s.plan_hash = a.plan_hash AND s.verdict = 'approve' AND s.policy_version = a.policy_version AND s.signed_at <= a.occurred_at AND s.expires_at > a.occurred_at), a.actor) AS approved_by,
  x.occurred_at AS executed_at,
  (SELECT (e.payload)::jsonb ->> 'execution_ref' FROM decision_events e WHERE e.recommendation_id = p.recommendation_id AND (e.payload)::jsonb ->> 'execution_ref' IS NOT NULL ORDER BY e.sequence DESC LIMIT 1) AS execution_ref,
  (p.payload)::jsonb ->> 'risk_level' AS risk_level
FROM decision_events p
LEFT JOIN decision_events a ON a.recommendation_id = p.recommendation_id AND a.to_status = 'approved'
LEFT JOIN decision_events x ON x.recommendation_id = p.recommendation_id AND x.to_status = 'executed'
WHERE p.to_status = 'proposed';
CREATE TABLE books_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO books_version VALUES ('0002');
