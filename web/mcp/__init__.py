"""The Model Context Protocol: agents claim, report and look over it, with the same rules and keys as over REST."""
