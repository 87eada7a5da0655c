from lexp.commands.python import LoadedRun as LoadedRun
from lexp.commands.python import figure as figure
from lexp.commands.python import load as load
from lexp.commands.python import results as results

__version__: str
