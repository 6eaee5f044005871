import sys,time; sys.path.insert(0,'.')
t=time.time()
from model.loader import load
from model.diagnostics import *
try:
    s=load(sys.argv[1])
    print(time.time()-t, len(s.steps), len(s.funcs), len(s.invariants), len(s.theorems))
    for w in s.warnings: print(render([w],s.sources))
except (RulesError,UsageError) as e: print(e); print(len(e.problems) if hasattr(e,'problems') else '')
