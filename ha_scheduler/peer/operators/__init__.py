"""What operators, probes, dashboards and launchers are told, and what they may ask."""
