"""The commands, one module each: `DESCRIPTION` and `EPILOG` of its help, `add_arguments` and `execute`.

`cli.py` imports only the module of the command that was asked for, so none pays for what another one needs. What a
command prints on stdout is its result; what it has to say beside that goes to stderr.
"""
