"""The processes that run jobs: the Dramatiq worker and, later, the Kubernetes operator."""
