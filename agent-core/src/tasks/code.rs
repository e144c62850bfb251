//! Jobs of kind `code`: the model plans and writes, the sandbox runs the tests, what went wrong goes
//! back to the model.
