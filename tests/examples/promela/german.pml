/* German's protocol with two clients and two values, written by hand beside german.rules, to hold its states and attacks
 * against Spin. One process takes one step at a time; each step is one d_step, so that Spin stores exactly the states between steps.
 * With -DGRANTS_BESIDE_SHARERS, -DSHARES_THE_EXCLUSIVE, -DKEEPS_COPY, -DUNLISTED, -DDATA_NOT_TAKEN or -DORDER_OVERWRITTEN
 * it has the fault of that name, with -DSINGLE_WRITER or -DREADS_LATEST it is asked only the claim of that name. */

/* What a client has or wants, and what the home node orders. */
#define NOTHING   0
#define SHARED    1
#define EXCLUSIVE 2
#define INVALIDATE      1
#define GRANT_SHARED    2
#define GRANT_EXCLUSIVE 3

byte copy[2] = NOTHING;
bit data[2];
byte wish[2] = NOTHING;
byte order[2] = NOTHING;
bit ordered_data[2];
bool invalidated[2];
bit answered_data[2];
byte current_wish = NOTHING;
bit current_client;
bool sharer[2];
bool to_tell[2];
bool exclusive_granted;
bit memory;
bit latest;

#define RECALLS (current_wish == EXCLUSIVE || (current_wish == SHARED && exclusive_granted))

#ifdef GRANTS_BESIDE_SHARERS
#define NO_SHARERS true
#else
#define NO_SHARERS (!sharer[0] && !sharer[1])
#endif
#ifdef SHARES_THE_EXCLUSIVE
#define MAY_SHARE true
#else
#define MAY_SHARE (!exclusive_granted)
#endif
#ifdef KEEPS_COPY
#define KEPT(c) copy[c]
#else
#define KEPT(c) NOTHING
#endif
#ifdef UNLISTED
#define LISTED(c) sharer[c]
#else
#define LISTED(c) true
#endif
#ifdef DATA_NOT_TAKEN
#define TAKEN(c) memory
#else
#define TAKEN(c) (exclusive_granted -> answered_data[c] : memory)
#endif
#ifdef ORDER_OVERWRITTEN
#define MAY_ORDER(c) true
#else
#define MAY_ORDER(c) (order[c] == NOTHING)
#endif

#define ALONE (!(copy[0] == EXCLUSIVE && copy[1] != NOTHING) && !(copy[1] == EXCLUSIVE && copy[0] != NOTHING))
#define FRESH ((copy[0] == NOTHING || data[0] == latest) && (copy[1] == NOTHING || data[1] == latest))
#if defined(SINGLE_WRITER)
#define CLAIM assert(ALONE)
#elif defined(READS_LATEST)
#define CLAIM assert(FRESH)
#else
#define CLAIM assert(ALONE && FRESH)
#endif

inline steps(c) {
    if
    :: d_step { wish[c] == NOTHING && copy[c] == NOTHING -> wish[c] = SHARED }
    :: d_step { wish[c] == NOTHING && copy[c] != EXCLUSIVE -> wish[c] = EXCLUSIVE }
    :: d_step { current_wish == NOTHING && wish[c] != NOTHING ->
           current_wish = wish[c]; current_client = c; wish[c] = NOTHING; to_tell[0] = sharer[0]; to_tell[1] = sharer[1] }
    :: d_step { to_tell[c] && MAY_ORDER(c) && RECALLS -> order[c] = INVALIDATE; to_tell[c] = false }
    :: d_step { order[c] == INVALIDATE && !invalidated[c] ->
           order[c] = NOTHING; invalidated[c] = true; answered_data[c] = data[c]; copy[c] = KEPT(c) }
    :: d_step { invalidated[c] && current_wish != NOTHING ->
           invalidated[c] = false; sharer[c] = false; memory = TAKEN(c); exclusive_granted = false }
    :: d_step { current_wish == SHARED && current_client == c && order[c] == NOTHING && MAY_SHARE ->
           order[c] = GRANT_SHARED; ordered_data[c] = memory; sharer[c] = LISTED(c); current_wish = NOTHING }
    :: d_step { current_wish == EXCLUSIVE && current_client == c && order[c] == NOTHING && !exclusive_granted &&
                NO_SHARERS ->
           order[c] = GRANT_EXCLUSIVE; ordered_data[c] = memory; sharer[c] = true; exclusive_granted = true;
           current_wish = NOTHING }
    :: d_step { order[c] == GRANT_SHARED -> copy[c] = SHARED; data[c] = ordered_data[c]; order[c] = NOTHING; CLAIM }
    :: d_step { order[c] == GRANT_EXCLUSIVE -> copy[c] = EXCLUSIVE; data[c] = ordered_data[c]; order[c] = NOTHING; CLAIM }
    :: d_step { copy[c] == EXCLUSIVE -> data[c] = 0; latest = 0; CLAIM }
    :: d_step { copy[c] == EXCLUSIVE -> data[c] = 1; latest = 1; CLAIM }
    fi
}

active proctype system() {
end:
    do
    :: steps(0)
    :: steps(1)
    od
}
