//! The fold of one instance.
//!
//! Each event in total order, by the first rule that applies:
//!
//! 1. The first event fixes the version. When that is not known, every event is violating.
//! 2. An event with the source and id of an earlier one is a repeat; with another type it is superseded by that one.
//! 3. A type that the version does not declare is foreign.
//! 4. The wrong role or topic is violating. The role is what the event says, or else the one that has its source.
//! 5. When causes of it are superseded and none is a step, it is superseded by the same event.
//! 6. An *answer* to a wait that is over is superseded by the step that ended it: the type was possible in that wait,
//!    and the event names the cause of that wait, or a cause that the step that ended it names too. It is no such answer
//!    when it names the cause of the present wait as well.
//! 7. What is possible in the present state is a step. A deadline's event is violating while it is not due.
//! 8. What is not possible there, and has a cause that is superseded, is superseded as that is: it would have been possible
//!    if its cause had counted.
//! 9. Everything else is violating, and changes nothing.
//!
//! The cause of a wait is the event that began it. So of two events that decide one thing the first in total order wins:
//! two replicas that answer one event, two sides of a partition, an answer and its deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::declaration::Declaration;
use super::super::determined::deadline_id;
use super::super::observed::Observed;
use super::Versions;
use super::verdict::{Due, EventRef, Instance, Judgement, Late, Owed, Superseded, Violation, Why, WhyNot};

/// The fold of one instance's events, in total order.
#[derive(Debug, Clone)]
pub struct Fold {
    correlation: String,
    declaration: Option<Arc<Declaration>>,
    instance: Instance,
    judged: Vec<(Arc<Observed>, Judgement)>,
    /// Numbers of the first events of an id and source.
    by_name: BTreeMap<(String, String), usize>,
    /// What became of the events of an id, which causes name without a source.
    by_id: BTreeMap<String, Became>,
    /// The event that ended each wait. The last is the present one.
    waits: Vec<Option<EventRef>>,
    /// Waits by the id of the event that began them.
    begun_by: BTreeMap<String, Latest>,
    /// Waits by an id that the event which ended them names as a cause.
    ended_for: BTreeMap<String, Latest>,
}

/// Of events of one id, all that rules 5 and 8 look at, so that many of them cost no more than one.
#[derive(Debug, Clone, Default)]
struct Became {
    has_step: bool,
    /// The first that is superseded.
    superseded: Option<usize>,
}

/// The latest wait in each state.
type Latest = BTreeMap<String, usize>;

impl Fold {
    /// The fold before any event.
    #[must_use]
    pub fn new(correlation: &str) -> Self {
        Self {
            correlation: correlation.to_owned(),
            declaration: None,
            instance: Instance::default(),
            judged: Vec::new(),
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            waits: Vec::new(),
            begun_by: BTreeMap::new(),
            ended_for: BTreeMap::new(),
        }
    }

    /// What is known after the events so far.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How each event was judged, in their order.
    #[must_use]
    pub fn judged(&self) -> &[(Arc<Observed>, Judgement)] {
        &self.judged
    }

    /// The first event of a source and id, and how it was judged.
    #[must_use]
    pub fn find(&self, source: &str, id: &str) -> Option<&(Arc<Observed>, Judgement)> {
        let number = self.by_name.get(&(id.to_owned(), source.to_owned()))?;
        self.judged.get(*number)
    }

    /// How events would be judged if they came next, one after the other.
    #[must_use]
    pub fn foresee(&self, versions: &Versions, events: Vec<Observed>) -> Vec<Judgement> {
        if let ([event], Some(declaration)) = (events.as_slice(), &self.declaration) {
            return vec![self.judge_by(declaration, event)];
        }
        let mut then = self.clone();
        events.into_iter().for_each(|event| then.judge(versions, Arc::new(event)));
        then.judged.drain(self.judged.len()..).map(|(_, judgement)| judgement).collect()
    }

    /// Says how many events were left out after these.
    pub(super) fn set_omitted(&mut self, omitted: usize) {
        self.instance.omitted = omitted;
    }

    /// Judges the next event in total order.
    pub fn judge(&mut self, versions: &Versions, event: Arc<Observed>) {
        if self.judged.is_empty() {
            self.begin(versions, &event);
        }
        let judgement = match self.declaration.clone() {
            Some(declaration) => {
                let judgement = self.judge_by(&declaration, &event);
                self.note(&declaration, &event, &judgement);
                judgement
            }
            None => {
                let why = WhyNot::UnknownVersion { named: event.version.clone().unwrap_or_default() };
                self.instance.violations.push(Violation { event: EventRef::from(&*event), why: why.clone() });
                Judgement::Violating(why)
            }
        };
        let number = self.judged.len();
        self.by_name.entry((event.id.clone(), event.source.clone())).or_insert(number);
        let became = self.by_id.entry(event.id.clone()).or_default();
        match judgement {
            Judgement::Step { .. } => became.has_step = true,
            Judgement::Superseded { .. } => became.superseded = became.superseded.or(Some(number)),
            _ => {}
        }
        self.judged.push((event, judgement));
    }

    fn begin(&mut self, versions: &Versions, event: &Observed) {
        let Some(declaration) = versions.of_first(event) else { return };
        self.instance.version = Some(declaration.version());
        self.instance.state = declaration.start().to_owned();
        self.waits.push(None);
        self.declaration = Some(declaration.clone());
    }

    fn judge_by(&self, declaration: &Declaration, event: &Observed) -> Judgement {
        let earlier = self.by_name.get(&(event.id.clone(), event.source.clone()));
        if let Some((earlier, judgement)) = earlier.and_then(|number| self.judged.get(*number)) {
            return match judgement {
                _ if earlier.kind == event.kind => Judgement::Repeat,
                Judgement::Superseded { by, .. } => Judgement::Superseded { why: Why::SameId, by: by.clone() },
                _ => Judgement::Superseded { why: Why::SameId, by: EventRef::from(&**earlier) },
            };
        }
        if !declaration.events().contains_key(&event.kind) {
            return Judgement::Foreign;
        }
        if let Some(why) = find_misplaced(declaration, event) {
            return Judgement::Violating(why);
        }
        let has_step = event.causes.iter().filter_map(|cause| self.by_id.get(cause)).any(|cause| cause.has_step);
        if let Some(superseded) = self.find_superseded_cause(declaration, event).filter(|_| !has_step) {
            return superseded;
        }
        if let Some(by) = self.find_answered(declaration, event) {
            return Judgement::Superseded { why: Why::Duplicate, by };
        }
        self.judge_by_state(declaration, event)
    }

    fn judge_by_state(&self, declaration: &Declaration, event: &Observed) -> Judgement {
        let name = &self.instance.state;
        let Some(state) = declaration.states().get(name) else { return Judgement::Foreign };
        let deadline = self.instance.due.as_ref().filter(|due| due.kind == event.kind);
        match (state.transition(&event.kind), deadline) {
            (Some(_), Some(due)) if event.at_ms() < due.due_ms => {
                let early_ms = due.due_ms - event.at_ms();
                Judgement::Violating(WhyNot::Early { due_ms: due.due_ms, early_ms })
            }
            (Some(transition), _) => Judgement::Step { to: transition.to.clone() },
            (None, _) => self.find_superseded_cause(declaration, event).unwrap_or_else(|| {
                Judgement::Violating(match state.end {
                    Some(_) => WhyNot::AfterEnd { state: name.clone() },
                    None => {
                        let possible = state.possible().map(str::to_owned).collect();
                        WhyNot::Unexpected { state: name.clone(), possible }
                    }
                })
            }),
        }
    }

    /// Rules 5 and 8: superseded by what supersedes the first of an event's causes that is superseded.
    fn find_superseded_cause(&self, declaration: &Declaration, event: &Observed) -> Option<Judgement> {
        let mut causes = event.causes.iter().filter_map(|cause| self.by_id.get(cause));
        let (cause, judgement) = self.judged.get(causes.find_map(|cause| cause.superseded)?)?;
        let Judgement::Superseded { by, .. } = judgement else { return None };
        let undoes = declaration.events().get(&cause.kind).and_then(|cause| cause.compensation.as_ref());
        let why = if undoes == Some(&event.kind) { Why::Compensation } else { Why::Consequence };
        Some(Judgement::Superseded { why, by: by.clone() })
    }

    /// Rule 6: the step that ended the wait that an event answers too late. Of several the latest.
    fn find_answered(&self, declaration: &Declaration, event: &Observed) -> Option<EventRef> {
        let present = self.waits.len().checked_sub(1)?;
        let mut answered = None;
        for cause in &event.causes {
            let begun = self.begun_by.get(cause).into_iter().flatten();
            if begun.clone().any(|(_, wait)| *wait == present) {
                return None;
            }
            let waits = begun.chain(self.ended_for.get(cause).into_iter().flatten());
            let is_possible = |state: &str| declaration.states().get(state)?.transition(&event.kind);
            let over = waits.filter(|(state, _)| is_possible(state).is_some()).map(|(_, wait)| *wait);
            answered = over.chain(answered).max();
        }
        self.waits.get(answered?)?.clone()
    }

    /// Keeps what a judgement changes.
    fn note(&mut self, declaration: &Declaration, event: &Observed, judgement: &Judgement) {
        let reference = || EventRef::from(event);
        if !self.instance.owed.is_empty() {
            let causes: BTreeSet<&String> = event.causes.iter().collect();
            let undoes =
                |owed: &Owed| owed.compensation.as_ref() == Some(&event.kind) && causes.contains(&owed.event.id);
            self.instance.owed.retain(|owed| !undoes(owed));
        }
        match judgement {
            Judgement::Step { to } => self.step(declaration, event, to),
            Judgement::Repeat => self.instance.repeats += 1,
            Judgement::Foreign => self.instance.foreign += 1,
            Judgement::Superseded { why, by } => {
                self.instance.superseded.push(Superseded { event: reference(), why: *why, by: by.clone() });
                let event_type = declaration.events().get(&event.kind);
                // Two of one type that answer one event have one key for their effect, so that it was done once.
                let is_double = by.kind == event.kind && *why == Why::Duplicate;
                if let Some(event_type) = event_type.filter(|found| found.effect && !is_double) {
                    let compensation = event_type.compensation.clone();
                    self.instance.owed.push(Owed { event: reference(), compensation });
                }
            }
            Judgement::Violating(why) => {
                self.instance.violations.push(Violation { event: reference(), why: why.clone() });
            }
        }
    }

    fn step(&mut self, declaration: &Declaration, event: &Observed, to: &str) {
        let reference = EventRef::from(event);
        let left = self.waits.len().saturating_sub(1);
        if let Some(due) = self.instance.due.take().filter(|due| due.kind != event.kind && due.due_ms < event.at_ms()) {
            self.instance.late.push(Late { state: due.state, event: reference.clone(), due_ms: due.due_ms });
        }
        for cause in &event.causes {
            self.ended_for.entry(cause.clone()).or_default().insert(self.instance.state.clone(), left);
        }
        self.begun_by.entry(event.id.clone()).or_default().insert(to.to_owned(), left + 1);
        if let Some(wait) = self.waits.last_mut() {
            *wait = Some(reference.clone());
        }
        self.waits.push(None);
        let instance = &mut self.instance;
        (instance.state, instance.steps) = (to.to_owned(), instance.steps + 1);
        instance.last_step = Some(reference.clone());
        let Some(state) = declaration.states().get(to) else { return };
        instance.end = state.end;
        instance.due = state.deadline.as_ref().map(|deadline| Due {
            due_ms: event.at_ms().saturating_add(deadline.after_ms),
            state: to.to_owned(),
            kind: deadline.event.clone(),
            by: declaration.emitter(&deadline.event).unwrap_or_default().to_owned(),
            id: deadline_id(declaration.version(), &self.correlation, to, &event.source, &event.id),
            cause: reference,
        });
    }
}

/// Rule 4: whether an event comes from a role, from a node, or by a topic that its type does not have.
fn find_misplaced(declaration: &Declaration, event: &Observed) -> Option<WhyNot> {
    let event_type = declaration.events().get(&event.kind)?;
    if let Some(pattern) = event_type.topic.as_ref().filter(|pattern| !pattern.matches(&event.topic)) {
        let (expected, found) = (pattern.to_string(), event.topic.to_string());
        return Some(WhyNot::WrongTopic { expected, found });
    }
    let known = declaration.role_of_source(&event.source);
    let said = event.role.as_deref();
    let expected = event_type.by.as_str();
    let has_sources = declaration.roles().get(expected).is_some_and(|role| !role.sources.is_empty());
    let found = match (said, known) {
        (Some(said), _) if said != expected => said,
        (_, Some(known)) if known != expected => known,
        (_, None) if has_sources => &event.source,
        _ => {
            let nodes = declaration.roles().get(expected).map(|role| &role.nodes).filter(|nodes| !nodes.is_empty())?;
            let stranger = event.author.filter(|author| !nodes.contains(author))?;
            return Some(WhyNot::WrongNode { role: expected.to_owned(), found: stranger });
        }
    };
    Some(WhyNot::WrongRole { expected: expected.to_owned(), found: found.to_owned() })
}
