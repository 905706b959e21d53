"""The language every room speaks: messages, wire format, client, configuration, metrics, errors, life-cycle."""
