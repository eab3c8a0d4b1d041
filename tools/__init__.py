"""Maintenance tools: pictures, reference, site, and checks of published figures."""
