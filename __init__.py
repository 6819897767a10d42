"""The pack: see nodes/ and vdit_core/."""
