//! What the driver does when the run's folder has been moved or deleted.

use protocol::coordinator::{Event, Outcome};

use super::Driver;

impl Driver {
    /// Whether the run's folder is still in place. If not, ends the run and redirects all further writes to another
    /// folder.
    pub(super) fn look_at_folder(&mut self) -> bool {
        if self.rescue.is_some() || self.finished.is_some() {
            return true;
        }
        let Some(rescue) = self.folder.rescue() else { return true };
        if let Ok(place) = &rescue.place {
            self.uploads.move_to(place);
            self.recorder.move_to(place);
        }
        if let Some(line) = rescue.resume_line() {
            self.recorder.goes_on_with(line);
        }
        self.recorder.warning(&rescue.warning());
        let reason = rescue.how.clone();
        self.rescue = Some(rescue);
        self.handle(Event::VersionsLost { reason });
        false
    }

    /// Completes the rescue of a run whose folder was lost, and adds its location to the outcome.
    pub(super) fn rescued(&mut self, outcome: Outcome) -> Outcome {
        if self.rescue.is_none() {
            self.rescue = self.folder.rescue();
            if let Some(Ok(place)) = self.rescue.as_ref().map(|rescue| &rescue.place) {
                self.recorder.move_to(place);
            }
        }
        match &self.rescue {
            Some(rescue) => self.folder.conclude(rescue, outcome),
            None => outcome,
        }
    }
}
