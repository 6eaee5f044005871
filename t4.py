import sys,time; sys.path.insert(0,'.')
from model.loader import load
from model.diagnostics import *
from proofs.induction import *
from proofs.queries import *
def go():
    s=load(sys.argv[1],sys.argv[3:]); m=QueryMaker(s); t1=time.time()
    st=Settings(limit=float(sys.argv[2]),jobs=2,cross_check=False)
    pool=make_pool(2)
    cand={**s.invariants,**s.theorems}
    names=[name_of(c) for c in s.invariants.values()]
    r0=run_blocks(m.formulas.prelude,[m.follows(s.theorems.values(),names)],st,pool)
    implied={r.claim for r in r0 if r.verdict=='unsat'}
    cand={n:c for n,c in cand.items() if n not in implied}
    an=[name_of(c) for c in cand.values()]
    bl=[m.initial(cand.values())]+[b for b in (m.step(t,cand.values(),an,s.transitions.values()) for t in m.transitions) if b]
    rs=run_blocks(m.formulas.prelude,bl,st,pool)
    print('implied',implied, 'wall',round(time.time()-t1,2),'z3',round(sum(r.seconds for r in rs),2),len(rs))
    for r in sorted(rs,key=lambda r:r.claim):
        if r.verdict!='unsat': print('  ',r.claim,'|',r.label,r.verdict)
    for r in sorted(rs,key=lambda r:-r.seconds)[:5]: print('   slow',r.label,r.claim,r.verdict,round(r.seconds,3))
try: go()
except (RulesError,UsageError) as e: print(e)
