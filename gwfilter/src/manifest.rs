//! Multi-document YAML and JSON to documents.
