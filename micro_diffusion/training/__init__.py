"""The only package that knows Composer."""
