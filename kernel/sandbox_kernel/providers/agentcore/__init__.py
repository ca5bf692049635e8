"""Sandboxes of Amazon Bedrock AgentCore's Code Interpreter. boto3 is imported here, on first use, and nowhere else."""
