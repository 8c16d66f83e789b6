"""How good a student is: samplers to compare with, features, metrics, tables, charts and the report; latency."""
