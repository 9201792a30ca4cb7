//! The run's token on the control plane: a client's calls carry it, a server admits no call without it.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::token::{METADATA_KEY, Token};

/// Puts the token into a client's calls.
#[derive(Clone, Debug)]
pub struct Bearer {
    value: MetadataValue<Ascii>,
}

impl Bearer {
    /// For this run's token.
    #[must_use]
    pub fn new(token: &Token) -> Self {
        let mut value: MetadataValue<Ascii> =
            token.bearer().parse().expect("hexadecimal digits are a metadata value");
        // Kept out of logs, and out of the table that HTTP/2 compresses headers with.
        value.set_sensitive(true);
        Self { value }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(METADATA_KEY, self.value.clone());
        Ok(request)
    }
}

/// Admits a server's calls that carry the token.
#[derive(Clone, Debug)]
pub struct Guard {
    token: Token,
}

impl Guard {
    /// For this run's token.
    #[must_use]
    pub fn new(token: Token) -> Self {
        Self { token }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let value = request.metadata().get(METADATA_KEY).and_then(|value| value.to_str().ok());
        if self.token.admits(value) {
            return Ok(request);
        }
        Err(Status::unauthenticated("the run's token is missing or wrong: see --token-file"))
    }
}
