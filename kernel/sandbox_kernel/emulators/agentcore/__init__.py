"""The data plane of Amazon Bedrock AgentCore's Code Interpreter, which runs code in the local sandbox."""
