"""Lo que encuentra un programa que se prueba sin el extra «rapido»: como si uvloop no estuviera instalado."""

raise ModuleNotFoundError("aquí se prueba sin uvloop", name="uvloop")
