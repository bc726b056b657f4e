//! Streams from the place at a replica to the last token.

use pipeline::chat::prompt_rows;

use super::{
    Time, World,
    calendar::Event,
    replica::{Ended, Job, Pace, Step},
};

impl World<'_> {
    pub(super) fn send_stream(&mut self, replica: u32) {
        let Some(job) = self.gateway.take() else { return };
        self.fleet.enter(replica, 1);
        self.gateway.in_flight += 1;
        let watched = self.settings.tokens.is_some();
        let next = self.fleet.start_stream(replica, job, watched, self.now, &self.settings.service);
        self.schedule_stream(replica, next);
    }

    /// First tokens, some more of them, and ends that are due, unless streams came or went since `version`.
    pub(super) fn step_streams(&mut self, replica: u32, version: u32) {
        if !self.fleet.is_current(replica, version) {
            return;
        }
        while let Some(step) = self.fleet.step_stream(replica, self.now, &self.settings.service) {
            match step {
                Step::Began { job, since, load } => self.begin_answer(replica, job, since, load),
                Step::Paced(pace) => self.learn_pace(replica, pace),
                Step::Ended(ended) => {
                    self.end_answer(replica, &ended);
                    self.fleet.leave(replica, self.now);
                }
            }
        }
        let next = self.fleet.next_stream(replica, self.now, &self.settings.service);
        self.schedule_stream(replica, next);
    }

    fn begin_answer(&mut self, replica: u32, job: Job, since: Time, load: u32) {
        let took = self.now.since(since);
        self.gateway.latency.observe(prompt_rows(job.prompt), took, 1.0);
        if let Some(tokens) = &mut self.gateway.tokens {
            tokens.begun(took);
        }
        if let Some(limit) = self.fleet.limit(replica) {
            limit.first_token(took, load);
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.answered(self.now, self.now.since(job.arrived));
        }
    }

    fn end_answer(&mut self, replica: u32, ended: &Ended) {
        let Ended { job, began, rest } = *ended;
        self.gateway.in_flight -= 1;
        let occupancy = self.now.since(began);
        let Some(rest) = rest else {
            self.gateway.latency.observe(1, occupancy, 1.0);
            let outcome = self.judge.answered(job.arrived, self.now, self.settings.deadline);
            return self.record(job, outcome);
        };
        if let Some(pace) = rest.last {
            self.learn_pace(replica, pace);
        }
        if let Some(tokens) = &mut self.gateway.tokens {
            tokens.ended(job.tokens as u64, occupancy);
        }
        let outcome = self.judge.streamed(&job, &rest, self.now, self.settings);
        self.gateway.completed(outcome);
        self.note(job, outcome);
    }

    fn learn_pace(&mut self, replica: u32, pace: Pace) {
        if let Some(tokens) = &mut self.gateway.tokens {
            tokens.paced(pace, self.fleet.limit(replica));
        }
    }

    fn schedule_stream(&mut self, replica: u32, next: Option<(Time, u32)>) {
        if let Some((at, version)) = next {
            self.calendar.push(at, Event::Stream { replica, version });
        }
    }
}
