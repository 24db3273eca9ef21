# Makes any stock config that inherits it an integer one: int8 layers, int16 SGD.
custom_imports = dict(imports=['mmint'])
runner_type = 'IntRunner'
integer = dict(bits=8)
