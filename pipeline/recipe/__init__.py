"""All stages from one TOML file, each run only if it is out of date."""
