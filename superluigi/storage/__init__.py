"""Bytes: on the local disk, in S3, and the local copies between the two. Nothing here knows of tasks."""
