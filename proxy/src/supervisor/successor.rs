//! Taking over from another supervisor: a running proxy of this or another version, with other settings
//! perhaps, that has started this process and offers it everything it has.

use std::{
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    Supervisor,
    history::{Death, History, Unswept},
    import::Import,
    inherit::Inherited,
    listen,
    plan::Action,
    predecessors::Predecessors,
    seats, setup,
    twin::{self, Twin},
};
use crate::{
    config::Config,
    fault::{self, Point},
    handover::{
        self, flows,
        line::{Line, Word},
    },
    ledger::Ledger,
    sys::{
        fd, poll,
        process::{self, Child},
        time,
    },
    table::{Decision, DecisionCell, EstateStage, LostReason},
};
use proxy_common::lease::{PRIMARY, SEATS, STANDBY};

/// Time that the own pools have to get ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Time that the flows may take to come once this supervisor is ready: longer than the old one waits.
const OFFER_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_micros(100);
/// Wait between two looks at what is slow.
const TICK: Duration = Duration::from_millis(2);

/// What a supervisor that has not taken over yet waits for.
pub struct Candidacy {
    line: Line,
    inherited: Inherited,
    decision: &'static DecisionCell,
}

/// Gets ready beside the supervisor at the other end of the line, takes over from it, and supervises until
/// the end.
///
/// # Errors
/// It does not come to that, and the other one goes on; or what failed later.
pub fn run(config: Config, line: Line) -> Result<()> {
    let inherited = Inherited::receive(line)?;
    let setup = setup::open(config, Some(&inherited))?;
    fault::arm(setup.table)?;
    let mut supervisor = Supervisor::new(setup);
    supervisor.setup.table.supervisor().pid.set(std::process::id() as i32);
    process::set_name(c"proxy");
    supervisor.handover.binary = inherited.offer.binary.clone();
    let decision = DecisionCell::open(inherited.fds.decision).context("cannot map the word that decides")?;
    supervisor.candidacy = Some(Candidacy { line, inherited, decision });
    let taken = supervisor.get_ready(line).and_then(|()| supervisor.take_over(line, decision));
    if let Err(error) = taken {
        supervisor.withdraw();
        return Err(error);
    }
    supervisor.serve()
}

impl Supervisor {
    /// Starts the own pools, which have nothing to do yet, and says so; then waits for the flows.
    fn get_ready(&mut self, line: Line) -> Result<()> {
        let began = Instant::now();
        while self.twin.child().is_none()
            || ![PRIMARY, STANDBY].into_iter().all(|seat| self.plan.serves(seat))
        {
            if began.elapsed() > START_LIMIT {
                bail!("the new pools are not ready after {} s", START_LIMIT.as_secs());
            }
            self.candidate_turn(line)?;
        }
        line.say(&Word::Ready).context("the running proxy does not listen any more")?;
        let ready_at = Instant::now();
        while !self.candidate_turn(line)? {
            if ready_at.elapsed() > OFFER_LIMIT {
                bail!("the running proxy has not handed over for {} s", OFFER_LIMIT.as_secs());
            }
        }
        Ok(())
    }

    /// One turn before anything is taken over. Answers whether the line has something to tell.
    fn candidate_turn(&mut self, line: Line) -> Result<bool> {
        let now = time::monotonic_ns();
        for action in self.look(now) {
            match action {
                Action::Bury { .. } | Action::Fence(_) => {
                    bail!("a new pool died or hung before it had anything to do")
                }
                action => self.act(now, action),
            }
        }
        // There before anything is taken over: from then on somebody has to see it through.
        self.watch_twin(now);
        Ok(poll::readable(&[line.fd()], TICK)?[0])
    }

    /// Takes over what comes by the line.
    fn take_over(&mut self, line: Line, decision: &DecisionCell) -> Result<()> {
        let Some(Candidacy { inherited, .. }) = &self.candidacy else { return Ok(()) };
        let (ledger, _) = line.receive_document().context("the running proxy did not hand over")?;
        let ledger: Ledger = serde_json::from_slice(&ledger).context("the counters are not understood")?;
        let (document, fds) = line.receive_document().context("the flows did not come")?;
        let (header, images) =
            flows::decode(&document).map_err(|why| anyhow!("the flows are not understood: {why}"))?;
        let epoch = seats::new_epoch(&self.setup.table);
        let import = Import { setup: &self.setup, inherited, news: &header.servers, fds: &fds, epoch };
        let (connections, flows) = import.all(&images)?;
        import.rates(&header.rates);
        ledger.import(&self.setup.table, self.setup.config);
        fault::point(Point::ImportDone);
        self.offer_to_workers(epoch, handover::claim_limit(images.len()))?;
        let predecessors: Vec<Child> =
            header.processes.iter().filter_map(|pid| process::open(*pid).ok()).collect();
        if header.prefers_standby {
            self.plan.pin(STANDBY);
            self.setup.steering.liveness().set_first(STANDBY);
            self.setup.table.supervisor().pinned.store(1, Relaxed);
        }
        // Before it is decided, for who dies right after that could not do it any more. Nothing is steered by it yet.
        let setup = &mut self.setup;
        setup.table.supervisor().expect_copies(time::monotonic_ns());
        if let Err(error) = setup.steering.set_verdicts(&header.verdicts.verdicts(setup.config)) {
            tracing::error!(%error, "the verdicts are counted anew");
        }
        if !decision.decide(Decision::Taken) {
            bail!("the running proxy goes on: it has waited for too long");
        }
        self.go_on();
        let gap_us = seats::elapsed_us(header.parked_at_ns);
        // Its leftovers are descriptors that no worker has claimed.
        let (death, reason) = (Death::default(), LostReason::Corrupt);
        self.unswept.push(Unswept { epoch, death, reason });
        self.has_orphans = true;
        self.history = History::new(self.setup.table);
        self.settle(gap_us);
        self.predecessors = Predecessors::new(predecessors, time::monotonic_ns());
        tracing::info!(gap_us, connections, flows, "taken over from the supervisor before");
        Ok(())
    }

    /// Ends all that has been started. Nothing is ended in good order: it would be the other supervisor's.
    fn withdraw(&self) {
        self.processes().for_each(|child| drop(process::kill(*child)));
        self.setup.sockets.remove_new_paths();
    }

    /// The supervisor died before it had taken over, perhaps: does not come back if it never will.
    pub(super) fn leave_if_kept(&mut self) {
        let Some(candidacy) = &self.candidacy else { return };
        let table = self.setup.table;
        candidacy.decision.decide(Decision::Kept);
        if table.supervisor().serving.load(Relaxed) == 0 && candidacy.decision.get() != Decision::Taken {
            self.seats.children = [PRIMARY, STANDBY].map(|seat| twin::resume(&table.seat(seat).child));
            self.twin = Twin::default();
            self.withdraw();
            process::exit_now(1);
        }
    }

    /// The supervisor died after it had taken over, perhaps, or in the middle of it: sees it through.
    pub(super) fn resume_candidacy(&mut self) {
        if self.candidacy.is_none() {
            return;
        }
        if self.setup.table.supervisor().serving.load(Relaxed) != 0 {
            self.setup.is_serving = true;
            self.setup.control_socket.own(true);
            self.candidacy = None;
            return;
        }
        tracing::warn!("the supervisor died while it took over: its twin sees it through");
        // Its sockets may be in their slots already.
        let setup = &mut self.setup;
        if let Err(error) = listen::step_aside(setup.config, &mut setup.steering, &setup.sockets) {
            tracing::error!(%error, "the kernel program cannot be taken off");
        }
        self.go_on();
        self.settle(0);
    }

    /// Lets the workers claim what was imported, and waits until they have.
    fn offer_to_workers(&self, epoch: u32, limit: Duration) -> Result<()> {
        let table = self.setup.table;
        let workers = table.workers(PRIMARY);
        for worker in workers {
            if !worker.estates.iter().any(|estate| estate.offer(epoch)) {
                bail!("a new worker has no room for what it is offered");
            }
        }
        seats::ring_all(&table);
        let began = Instant::now();
        let is_offered = || {
            let mut estates = workers.iter().flat_map(|worker| &worker.estates);
            estates.any(|estate| estate.stage() == EstateStage::Offered)
        };
        loop {
            // In this order: who claims all of it and dies is seen too.
            let has_claimed = !is_offered();
            let mut pools = self.seats.children.iter().flatten();
            if pools.any(|pool| process::is_dead(*pool, Duration::ZERO)) {
                bail!("a new pool died when it was to take over");
            }
            if has_claimed {
                return Ok(());
            }
            if began.elapsed() > limit {
                bail!("the new workers have not taken over within {limit:?}");
            }
            thread::sleep(LOOK);
        }
    }

    /// The flows are this supervisor's. Nothing may fail from here on, and it can be done again.
    fn go_on(&mut self) {
        let setup = &mut self.setup;
        setup.is_serving = true;
        if let Err(error) = setup.sockets.join_rest(setup.config) {
            tracing::error!("not all workers have their own socket: {error:#}");
        }
        if let Err(error) = listen::steer(setup.config, &mut setup.steering, &setup.sockets) {
            tracing::error!(%error, "not all new traffic is steered; trying again");
            self.handover.is_aside = true;
        }
        for estate in setup.table.workers(PRIMARY).iter().flat_map(|worker| &worker.estates) {
            if estate.stage() == EstateStage::Claimed {
                estate.set_stage(EstateStage::Left);
            }
        }
        for (seat, worker) in
            (0..SEATS as u32).flat_map(|seat| (0..setup.config.workers).map(move |worker| (seat, worker)))
        {
            let set = setup.table.worker(seat, worker).epoll.fd();
            if let Err(error) = seats::open_queues(setup, set, seat, worker) {
                tracing::error!(seat, worker, %error, "a worker's queues cannot be served by it");
            }
        }
        seats::ring_all(&setup.table);
    }

    /// What can be done after the traffic goes on.
    fn settle(&mut self, gap_us: u64) {
        let Some(Candidacy { line, inherited, .. }) = self.candidacy.take() else { return };
        // It has ended, perhaps, which is what it was told to do.
        let _ = line.say(&Word::Taken);
        let (config, offer) = (self.setup.config, &inherited.offer);
        let block = self.setup.table.supervisor();
        block.handover.succeed(offer.number, offer.kind(), gap_us);
        listen::refresh(config, &self.setup.sockets);
        self.setup.control_socket.own(true);
        let metrics = inherited.fds.metrics.filter(|_| config.metrics != offer.metrics);
        let unneeded = metrics.into_iter().chain([line.fd(), inherited.fds.decision]);
        unneeded.for_each(|unneeded| fd::replace(unneeded, self.setup.null));
        block.serving.store(1, Relaxed);
        self.notify.succeed(time::monotonic_ns(), &self.setup);
        // Last: a disk may be slow.
        self.open_access_log();
        let (from, version) = (offer.version.as_str(), env!("CARGO_PKG_VERSION"));
        tracing::info!(
            kind = offer.kind().label(),
            from,
            version,
            "serving in place of the supervisor before"
        );
    }
}
