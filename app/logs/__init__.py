"""The log manager: jobs, states and logs over HTTP, read from the streams and the records."""
