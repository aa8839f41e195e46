"""An example of access control: documents in Redis, which some may read and some may write."""
