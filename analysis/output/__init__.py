"""Maps and scores as files: pictures, tables and arrays, whole or not at all."""
