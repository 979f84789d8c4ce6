//! From AuthorizationPolicies and a gateway to verdicts.
