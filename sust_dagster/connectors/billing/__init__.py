"""Bills: files, folders and object stores in the providers' formats, and the simulated cloud."""
