"""More faults of one line in Dom0's daemons and in xl's dealings with them: each is of another kind than those before.

In the form of `catalogue.py`; they belong to `catalogue_domb.py`, which lists them. Not here: DomB itself.
"""

from __future__ import annotations

from bulkhead.proofs.faults.catalogue import Fault

STORED, STORE, CONSOLED = "tools/xenstored:Xenstored.", "tools/store:Store.", "tools/xenconsoled:Xenconsoled."
RING, XL, MAPPING = "tools/xenstored:Connection.", "tools/xl:Xl.", "tools/mapping:RingMapping."
SAME = "return [self._change(path)]"
SIZE = "if domid and len(value) > QUOTA_NODE_SIZE:\n            raise XsError(\"ENOSPC\")"
MADE = "if node is None:\n            node = self._create(domid, path)"
BIND = "local = ev.xenevtchn_bind"

FAULTS: tuple[Fault, ...] = (
    # Lists of permissions.
    Fault("list_is_reversed", STORED + "_set_perms", "for word in words[1:]:", "for word in reversed(words[1:]):",
          "the last entry of a list names the owner"),
    Fault("list_is_told_sorted", STORE + "get_perms", "in self._node(domid, path, \"r\").grants)",
          "in sorted(self._node(domid, path, \"r\").grants, key=lambda g: g.domid))", "a list is told in another order"),
    Fault("last_entry_counts", STORE + "allows", "for g in grants[1:] if", "for g in grants[:0:-1] if",
          "of two entries for one domain the last one counts"),
    Fault("one_entry_too_few", STORE + "given", "> QUOTA_PERMS", ">= QUOTA_PERMS",
          "a guest may not give a node as many entries as it may"),
    # Quotas.
    Fault("quota_is_one_less", STORE + "_create", "> self.quota_nodes", ">= self.quota_nodes", "the last node is refused"),
    Fault("quota_is_one_more", STORE + "_create", "> self.quota_nodes", "> self.quota_nodes + 1", "one node too many"),
    Fault("deep_path_counts_once", STORE + "_create", "+ len(missing) >", "+ 1 >",
          "a path makes any number of nodes, if there is room for one"),
    Fault("made_before_the_quota", STORE + "_create", "raise XsError(\"ENOSPC\")",
          "self.nodes[missing[-1]] = Node(b\"\", base.grants); raise XsError(\"ENOSPC\")",
          "a node is made, and then refused"),
    Fault("made_before_the_size", STORE + "write", f"{SIZE}\n        {MADE}", f"{MADE}\n        {SIZE}",
          "the nodes of a value that is too long are made"),
    Fault("subtree_stays_counted", STORE + "_remove", "self._count(self.nodes.pop(each).owner, -1)",
          "self._count(self.nodes.pop(each).owner, -1 if each == path else 0)",
          "nodes below one that is removed stay in their owners' quotas"),
    Fault("one_watch_too_few", STORED + "_watch", "> self.quota_watches", ">= self.quota_watches",
          "the last watch is refused"),
    # Watches.
    Fault("writing_told_here_only", STORE + "write", SAME, "return [self._change(path, exact=True)]",
          "who watches above does not hear of a new value"),
    Fault("making_told_here_only", STORE + "mkdir", SAME, "return [self._change(path, exact=True)]",
          "who watches above does not hear of a new node"),
    Fault("opening_told_here_only", STORE + "set_perms", "self._change(path, before)",
          "self._change(path, before, exact=True)", "who watches above does not hear of other permissions"),
    Fault("listers_not_told", STORE + "_change", ", self.nodes[parent(path)].grants, *more", ", *more",
          "who may list a node's parent does not hear of the node"),
    Fault("empty_value_not_told", STORE + "write", SAME, f"{SAME} if value else []", "an empty value is not told"),
    Fault("alike_is_below", STORED + "_hears", "watched.rstrip(\"/\") + \"/\"", "watched",
          "a watch of /a/b hears of /a/bc"),
    Fault("alike_is_removed", STORE + "_remove", "each.startswith(path + \"/\")", "each.startswith(path)",
          "with /a/b goes /a/bc"),
    Fault("root_is_not_watched", STORED + "_hears", "watched.rstrip(\"/\")", "watched", "a watch of the root hears nothing"),
    Fault("parents_go_first", STORE + "_remove", "[*each.split(\"/\"), \"\\x7f\"]", "each",
          "a node is told to have gone before those below it"),
    Fault("release_not_told", STORED + "release", "self._fire(self.store.drop_domain(domid))",
          "self.store.drop_domain(domid)", "nobody hears that the nodes of a domain go with it"),
    Fault("end_of_home_not_told", STORED + "release", "self._fire(self.store.remove(0, home(domid)))",
          "self.store.remove(0, home(domid))", "nobody hears that a domain's home goes"),
    Fault("new_home_not_told", STORED + "introduce", "self._fire(self.store.mkdir(0, home(domid)))",
          "self.store.mkdir(0, home(domid))", "nobody hears of a new domain's home before it is closed"),
    # Requests and answers.
    Fault("unterminated_path_read", STORED + "request", "kind not in REST_IGNORED",
          "kind not in (*REST_IGNORED, pages.XS_READ)",
          "a path without its zero is read"),
    Fault("unterminated_path_shown", STORED + "request", "kind not in REST_IGNORED",
          "kind not in (*REST_IGNORED, pages.XS_GET_PERMS)", "the permissions of a path without its zero are shown"),
    Fault("unterminated_path_written", STORED + "request", "if len(words) > 1 else words",
          "if len(words) > 1 else [*words, b\"\"]",
          "a path without its zero is written"),
    Fault("special_name_is_a_node", "tools/store:canonical", "if path.startswith(\"@\"):", "if path == \"@releaseDomain\":",
          "a special name that is not known is a node of the guest's"),
    Fault("odd_letters_taken", "tools/store:canonical", "not set(path) <= ALLOWED or ", "", "a path has any letters"),
    Fault("slash_at_the_end", "tools/store:canonical", " or (path != \"/\" and path[-1] == \"/\")", "",
          "a path may end with a slash"),
    Fault("full_list_refused", STORED + "_directory", "len(out) > XS_PAYLOAD_MAX", "len(out) >= XS_PAYLOAD_MAX",
          "a list that is as long as a message is refused"),
    Fault("error_looks_like_an_answer", STORED + "_serve", "kind, answer = pages.XS_ERROR, str(exc)", "answer = str(exc)",
          "a refusal has the kind of an answer"),
    Fault("answer_has_another_length", STORED + "_serve", "len(answer)) + answer", "len(payload)) + answer",
          "an answer's header has the length of the request"),
    Fault("answer_without_transaction", STORED + "_serve", "XS_HEADER.pack(kind, number, tx_id,",
          "XS_HEADER.pack(kind, number, 0,",
          "an answer does not say which transaction it is about"),
    Fault("failed_end_is_success", STORED + "_transaction_end", "raise XsError(\"ENOENT\")", "return OK",
          "the end of a transaction that nobody began succeeds"),
    Fault("error_not_in_the_page", RING + "ignore", "self.os.store(self.mapping.addr + pages.ERROR, U32.pack(error))",
          "pass",
          "a guest cannot read why its connection has ended"),
    Fault("another_reason_in_the_page", RING + "take_message", "pages.ERROR_RINGIDX", "pages.ERROR_PROTO",
          "a guest reads a wrong reason"),
    Fault("ended_and_still_answered", STORED + "_serve", "if not connection.ignored and connection.flush():",
          "if connection.flush():", "a guest whose connection has ended gets what was under way"),
    # Connections.
    Fault("connected_before_bound", STORED + "introduce", BIND,
          f"self.connections[domid] = Connection(self.os, domid, mapping, 0); {BIND}",
          "a guest whose port cannot be bound stays connected"),
    Fault("known_before_bound", STORED + "introduce", BIND, f"self.store.add_domain(domid); {BIND}",
          "a domain whose port cannot be bound exists for permissions"),
    Fault("console_ring_without_port", CONSOLED + "add", "mapping.unmap()", "pass",
          "a console's ring stays mapped, and there is no port"),
    Fault("ring_never_unmapped", MAPPING + "unmap", "gt.xengnttab_unmap(self.xgt, self.addr, 1)", "pass",
          "a guest's translation stays for ever"),
    Fault("typed_in_reverse", CONSOLED + "type", "console.waiting + text", "text + console.waiting",
          "what was typed last comes first"),
    Fault("first_input_dropped", CONSOLED + "type", "[:KEEP]", "[-KEEP:]", "too much input drops what was typed first"),
    # xl.
    Fault("failed_guest_left", XL + "create", "self.destroy(domid)", "pass", "a guest that cannot be connected stays"),
    Fault("xenstore_not_released", XL + "destroy", "self.xenstored.request(0, pages.XS_RELEASE, 0, b\"%d\\0\" % domid)",
          "pass",
          "XenStore's daemon never hears that a guest has ended"),
    Fault("console_never_removed", XL + "destroy", "self.xenconsoled.remove(domid)", "self.xenconsoled.output(domid)",
          "the console's daemon never hears of it"),
    Fault("created_and_not_started", XL + "create", "self.service.unpause(domid)", "pass",
          "a guest is created, and never runs"),
    Fault("console_port_in_xenstore", XL + "_connect", "(\"console/port\", str(guest.console_port))",
          "(\"console/port\", str(guest.store_port))", "XenStore names another port for the console"),
)

__all__ = ["FAULTS"]
