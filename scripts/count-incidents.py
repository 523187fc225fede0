#!/usr/bin/env python3
"""Counts the verdicts on the cases of an event file, by a reading of docs/choreography-reference.md of its own.

    scripts/count-incidents.py examples/declarations/incidents.toml incidents.ndjson.gz

Needs Python 3.11 and nothing else, and no mesh: it is what the mesh's own counts are compared with. The file has one
event a line, as JSON: `time`, `case` and `type`, and where they are known `id`, `source` and `causes`. Or it has what was
read back from a node, by `GET /v1/events` or `roundelay log export`: then times are the stamps, which are those of publishing.
"""

import collections
import datetime
import gzip
import json
import re
import sys
import tomllib

UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


def span_ms(text):
    return sum(int(number) * UNITS_MS[unit] for number, unit in re.findall(r"(\d+)(ms|d|h|m|s)", text))


def read_states(path):
    """State -> (type -> next state, deadline or None, whether it is an end)."""
    with open(path, "rb") as file:
        declaration = tomllib.load(file)
    states = {}
    for name, state in declaration["states"].items():
        on = {kind: to if isinstance(to, str) else to["to"] for kind, to in state.get("on", {}).items()}
        deadline = state.get("deadline")
        if deadline:
            on[deadline["event"]] = deadline["to"]
            deadline = (deadline["event"], span_ms(deadline["after"]))
        states[name] = (on, deadline, "end" in state)
    return declaration, states


def read_cases(path):
    cases = collections.defaultdict(list)
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
        for number, line in enumerate(file):
            event = json.loads(line)
            if "gap" in event:
                sys.exit(f"line {number + 1}: the node does not hold everything: {line.strip()}")
            if "rdlhlc" in event:
                event |= of_node(event)
            else:
                time = datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00"))
                event["stamp"] = round(time.timestamp() * 1000) << 16
            event["at_ms"] = event["stamp"] >> 16
            event.setdefault("id", str(number))
            event.setdefault("source", "/")
            event.setdefault("causes", [])
            if event["case"] is not None:
                cases[event["case"]].append((event["stamp"], number, event))
    return {case: [event for _, _, event in sorted(events, key=lambda e: e[:2])] for case, events in cases.items()}


def of_node(event):
    """What a CloudEvent of a node says in attributes of other names."""
    causes = event.get("causationid", "")
    if "," in causes:
        parts = [part for part in causes.split(",") if part]
        causes = [part.replace("%2C", ",").replace("%25", "%") for part in parts]
    else:
        causes = [causes] if causes else []
    return {"stamp": int(event["rdlhlc"]), "case": event.get("correlationid"), "causes": causes}


class Case:
    def __init__(self, declaration, states):
        self.kinds = declaration["events"]
        self.states = states
        self.state = declaration["start"]
        self.due = None  # (type, ms)
        self.stays = [{"state": self.state, "began": None, "ended": None}]
        self.seen = []  # (event, "step" | "superseded" | ...)
        self.counts = collections.Counter()
        self.late = 0

    def judge(self, event):
        word = self.word(event)
        self.seen.append((event, word))
        self.counts[word] += 1

    def word(self, event):
        kind, causes = event["type"], event["causes"]
        for other, _ in self.seen:
            if (other["id"], other["source"]) == (event["id"], event["source"]):
                return "repeat" if other["type"] == kind else "superseded"
        if kind not in self.kinds:
            return "foreign"
        became = {word for other, word in self.seen if other["id"] in causes}
        if "superseded" in became and "step" not in became:
            return "superseded"
        if self.answers_the_past(kind, causes):
            return "superseded"
        on, _, is_end = self.states[self.state]
        if kind not in on:
            return "superseded" if "superseded" in became else "after_end" if is_end else "unexpected"
        if self.due and self.due[0] == kind and event["at_ms"] < self.due[1]:
            return "early"
        self.step(event, on[kind])
        return "step"

    def answers_the_past(self, kind, causes):
        if self.stays[-1]["began"] and self.stays[-1]["began"]["id"] in causes:
            return False
        for stay in self.stays[:-1]:
            began = {stay["began"]["id"]} if stay["began"] else set()
            if kind in self.states[stay["state"]][0] and (began | set(stay["ended"]["causes"])) & set(causes):
                return True
        return False

    def step(self, event, to):
        if self.due and self.due[0] != event["type"] and self.due[1] < event["at_ms"]:
            self.late += 1
        self.stays[-1]["ended"] = event
        self.stays.append({"state": to, "began": event, "ended": None})
        self.state = to
        deadline = self.states[to][1]
        self.due = (deadline[0], event["at_ms"] + deadline[1]) if deadline else None

    def verdict(self):
        if any(self.counts[word] for word in ("unexpected", "after_end", "early")):
            return "violating"
        if self.counts["superseded"]:
            return "superseded"
        return "conforming" if self.states[self.state][2] else "pending"


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: count-incidents.py DECLARATION.toml EVENTS.ndjson[.gz]")
    declaration, states = read_states(sys.argv[1])
    totals = collections.Counter()
    for events in read_cases(sys.argv[2]).values():
        case = Case(declaration, states)
        for event in events:
            case.judge(event)
        totals["instances"] += 1
        totals["events"] += len(events)
        totals["verdict " + case.verdict()] += 1
        totals["state " + case.state] += 1
        totals["waits late"] += case.late
        for word, count in case.counts.items():
            totals["event " + word] += count
    for name, count in sorted(totals.items()):
        print(name, count)


if __name__ == "__main__":
    main()
