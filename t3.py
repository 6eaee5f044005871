import sys,time; sys.path.insert(0,'.')
t0=time.time()
from model.loader import load
from model.diagnostics import *
from proofs.induction import *
def go():
    s=load(sys.argv[1],sys.argv[3:]); t1=time.time()
    for w in s.warnings: print(render([w],s.sources))
    st=Settings(jobs=2,cross_check=sys.argv[2]=='x')
    pool=make_pool(2)
    p=prove(s,st,pool)
    print('load',t1-t0,'prove',time.time()-t1,'solver',p.solver_seconds,'queries',len(p.results), 'z3',sum(r.seconds for r in p.results))
    print('NOT proved',set(s.claims())-p.proved,'dropped',set(s.invariants)-p.standing)
    for r in sorted(p.failing,key=lambda r:r.claim): print('  ',r.claim,'|',r.label,r.verdict,r.second,round(r.seconds,2))
    slow=sorted(p.results,key=lambda r:-(r.seconds+r.second_seconds))[:8]
    for r in slow: print('   slow',r.label,r.claim,r.verdict,round(r.seconds,3),r.second,round(r.second_seconds,3))
try: go()
except (RulesError,UsageError) as e: print(e)
