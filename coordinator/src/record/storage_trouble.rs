//! Deduplicates warnings about storage errors: one when an error begins and one when it ends.

/// The last message about an error, while it lasts.
#[derive(Default)]
pub(super) struct StorageTrouble(Option<String>);

impl StorageTrouble {
    /// Records an error; returns whether this message is new and must be shown.
    pub(super) fn is_news(&mut self, text: &str) -> bool {
        let is_news = self.0.as_deref() != Some(text);
        self.0 = Some(text.to_owned());
        is_news
    }

    /// Records a success; returns whether an error has ended, which must be shown.
    pub(super) fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_once_until_it_is_over() {
        let mut trouble = StorageTrouble::default();
        assert!(!trouble.is_over());
        assert!(trouble.is_news("full") && !trouble.is_news("full") && trouble.is_news("read-only"));
        assert!(trouble.is_over() && !trouble.is_over());
        assert!(trouble.is_news("read-only"));
    }
}
