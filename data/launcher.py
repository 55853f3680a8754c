#!@PYTHON@ -I
import sys

sys.path.insert(0, "@LIB@/site")
from @MODULE@ import main

main()
