//! What the driver does where the run's folder is not in its place any more.

use protocol::coordinator::{Event, Outcome};

use super::Driver;

impl Driver {
    /// Whether the run's folder is in its place. Where it isn't, the run ends, and writes to another one from now on.
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

    /// The run's end, if its folder was lost: what is saved is made whole, and the outcome says where it is.
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
