"""Lists of scenarios, as TOML, and how they are run one after the other."""
