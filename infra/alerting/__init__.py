"""Alerts in control: their state, their endpoints, and how people are told of them."""
