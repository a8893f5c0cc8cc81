"""El fuzzer: entradas guiadas por la cobertura, contra el modelo de referencia (``make fuzz``). No se instala."""
