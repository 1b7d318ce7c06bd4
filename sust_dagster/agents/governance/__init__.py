"""DECIDE: risk, approvals and policy; an allow needs every named check to be true."""
