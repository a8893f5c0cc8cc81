"""Lo que encuentra un programa que se prueba sin el extra «interactivo»: como si prompt_toolkit no estuviera."""

raise ModuleNotFoundError("aquí se prueba sin prompt_toolkit", name="prompt_toolkit")
