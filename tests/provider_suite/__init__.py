"""What every provider has to do, as one suite: a provider's own test file subclasses `suite.ProviderSuite`."""
