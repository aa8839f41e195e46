"""One file per experiment; each has `measure(run) -> Result`."""
