"""Lo que encuentra un programa que se prueba sin el extra «metricas»: como si prometheus_client no estuviera."""

raise ModuleNotFoundError("aquí se prueba sin prometheus_client", name="prometheus_client")
