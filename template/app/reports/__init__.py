"""An example of access control: reports in Redis, which some may read and some may write."""
