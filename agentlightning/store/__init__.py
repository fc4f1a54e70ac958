"""The store: its Python face, its rules, its storages, its server and its client."""
