import sys,time; sys.path.insert(0,'.')
from model.loader import load
from proofs.queries import *
from proofs.solvers import *
import random, collections
s=load(sys.argv[1]); m=QueryMaker(s)
cand={**s.invariants,'free_is_unreachable':s.theorems['free_is_unreachable']}
an=[name_of(c) for c in cand.values()]
bl=[b for b in (m.step(t,cand.values(),an,()) for t in m.transitions) if b]
random.Random(1).shuffle(bl); bl=bl[:12]
for opts in ['','(set-option :smt.mbqi false)','(set-option :smt.mbqi false)(set-option :smt.auto_config false)','(set-option :smt.mbqi false)(set-option :smt.qi.eager_threshold 3)','(set-option :smt.relevancy 0)(set-option :smt.mbqi false)']:
    z=Z3Session(1.0); z.tell(opts+m.formulas.prelude); t0=time.time(); c=collections.Counter(); bad=[]
    for b in bl:
        z.tell('(push)'+b.text())
        for q in b.queries:
            a=z.ask(q.goal); c[a.verdict]+=1
            if a.verdict!='unsat': bad.append((b.label,q.claim,round(a.seconds,2)))
        z.tell('(pop)')
    print(opts,c,round(time.time()-t0,2),bad[:6])
